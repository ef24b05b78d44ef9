#!/bin/bash
# loop.sh: what the supervisor replaces, for comparison in start.sh only: a custom_startup.sh of bash loops that look for
# each app with pgrep. Both start our launcher, so that only the supervision differs.
set -u

mkdir -p "$HOME/scripts" "$HOME/Desktop"
cp -rf /opt/kasm-void/scripts/. "$HOME/scripts/"
cp -rf /opt/kasm-void/Desktop/. "$HOME/Desktop/"
chmod +x "$HOME"/scripts/*.sh "$HOME"/Desktop/*.desktop

profile=$HOME/.config/cloakbrowser

browser() {
	local wait=3
	/usr/bin/filter_ready
	/usr/bin/desktop_ready
	while :; do
		if ! pgrep -f "^$CLOAK_HOME/.*--user-data-dir=$profile" >/dev/null; then
			echo "launching cloakbrowser"
			mkdir -p "$profile"
			rm -f "$profile/SingletonLock" "$profile/SingletonSocket"
			/dockerstartup/maximize_window.sh >/dev/null 2>&1 &
			"$CLOAK_BIN" --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-software-rasterizer --start-maximized \
				--no-first-run --no-default-browser-check --password-store=basic --user-data-dir="$profile" \
				--remote-debugging-port="$CDP_PORT" --remote-debugging-address=127.0.0.1 "$START_URL" >>/tmp/cloakbrowser.log 2>&1 &
			sleep 2
			if kill -0 $! 2>/dev/null; then
				wait=3
			else
				tail -n 5 /tmp/cloakbrowser.log
				sleep "$wait"
				wait=$((wait * 2 > 30 ? 30 : wait * 2))
				continue
			fi
		fi
		sleep 3
	done
}

discord() {
	/usr/bin/desktop_ready
	mkdir -p "$HOME/.config/discord"
	while :; do
		if ! pgrep -x Discord >/dev/null; then
			echo "launching discord"
			echo '{ "SKIP_HOST_UPDATE": true }' >"$HOME/.config/discord/settings.json"
			eval "/usr/share/discord/Discord $APP_ARGS" >>/tmp/discord.log 2>&1 &
		fi
		sleep 3
	done
}

launcher() {
	while :; do
		if ! pgrep -f "^kasm-void nav-shim" >/dev/null; then
			kasm-void nav-shim >>/tmp/nav_shim.log 2>&1 &
		fi
		sleep 5
	done
}

browser &
discord &
launcher &
wait
