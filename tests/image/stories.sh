#!/bin/bash
# stories.sh: builds the image and uses it as people do. Needs a running docker, and from image/test.sh: IMAGE_WORK,
# IMAGE_BASE (imported here from IMAGE_WORK/base.tar), IMAGE. If IMAGE_BASE is empty, it tests the existing IMAGE. Containers
# have no network, no capabilities and uid 1000.
set -uo pipefail

cd "$(dirname "$0")/../.." || exit
here=tests/image
version=$(sed -n 's/^version = "\(.*\)"/\1/p' image/version.toml)

# shellcheck source=tests/image/helpers.sh
. tests/image/helpers.sh

# ---- the stories

build() {
	step "the image is built"
	if ! docker image inspect "$IMAGE_BASE" >/dev/null 2>&1; then
		docker import --change 'USER 1000' \
			--change 'ENV HOME=/home/kasm-user DISPLAY=:1 STARTUPDIR=/dockerstartup CHROME_USER_DATA_DIR=/home/kasm-user/.config/discord' \
			--change 'ENTRYPOINT ["/dockerstartup/kasm_default_profile.sh", "/dockerstartup/vnc_startup.sh", "/dockerstartup/kasm_startup.sh"]' \
			--change 'CMD ["--wait"]' "$IMAGE_WORK/base.tar" "$IMAGE_BASE" >/dev/null || exit 1
	fi
	docker build --network host --progress plain --file image/Dockerfile --tag "$IMAGE" \
		--build-arg "BASE_IMAGE=${IMAGE_BASE%:*}" --build-arg "BASE_TAG=${IMAGE_BASE#*:}" --build-arg "VERSION=$version" \
		--build-arg "CLOAK_SHA256=$(sha256sum "$IMAGE_WORK/archive/cloakbrowser.tar.gz" | cut -d' ' -f1)" \
		--build-context "binary=$IMAGE_WORK/binary" --build-context "cloak-archive=$IMAGE_WORK/archive" . \
		>"$IMAGE_WORK/build-image.log" 2>&1 || {
		tail -n 40 "$IMAGE_WORK/build-image.log"
		exit 1
	}
}

refused_builds() {
	step "a wrong checksum builds nothing"
	check "a checksum of another archive is refused" has "CLOAK_SHA256 is 00ff" docker build --network host --progress plain \
		--file image/Dockerfile --build-arg "BASE_IMAGE=${IMAGE_BASE%:*}" --build-arg "BASE_TAG=${IMAGE_BASE#*:}" \
		--build-arg CLOAK_SHA256=00ff --build-context "binary=$IMAGE_WORK/binary" \
		--build-context "cloak-archive=$IMAGE_WORK/archive" .
}

# For people who bring their own programs.
build_without_them() {
	step "without CloakBrowser and Discord"
	mkdir -p "$IMAGE_WORK/empty"
	check "it is built" docker build --network host --progress plain --file image/Dockerfile --tag kasm-void:bare \
		--build-arg "BASE_IMAGE=${IMAGE_BASE%:*}" --build-arg "BASE_TAG=${IMAGE_BASE#*:}" --build-arg CLOAK=0 --build-arg DISCORD=0 \
		--build-context "binary=$IMAGE_WORK/binary" --build-context "cloak-archive=$IMAGE_WORK/empty" .
	check "and has no CloakBrowser" ends 1 docker run --rm --network none --entrypoint test kasm-void:bare -e /opt/cloakbrowser
	docker image rm kasm-void:bare >/dev/null
}

metadata() {
	step "what the image says of itself"
	check "user" is 1000 configured '{{.Config.User}}'
	check "working folder" is /home/kasm-user configured '{{.Config.WorkingDir}}'
	check "stop signal" is SIGTERM configured '{{.Config.StopSignal}}'
	check "ports" is '{"9222/tcp":{},"9998/tcp":{}}' configured '{{json .Config.ExposedPorts}}'
	check "health check" is '["CMD","kasm-void","health"] 30s 5s 1m0s 3' configured \
		'{{with .Config.Healthcheck}}{{json .Test}} {{.Interval}} {{.Timeout}} {{.StartPeriod}} {{.Retries}}{{end}}'
	check "upstream's entry point is kept below ours" has '"/dockerstartup/kasm_default_profile.sh","/dockerstartup/vnc_startup.sh","/dockerstartup/kasm_startup.sh"' \
		configured '{{json .Config.Entrypoint}}'
	check "and its argument" is '["--wait"]' configured '{{json .Config.Cmd}}'
	local label value
	while IFS='|' read -r label value; do
		check "label $label" is "$value" configured "{{index .Config.Labels \"org.opencontainers.image.$label\"}}"
	done <<-END
		title|kasm-void
		vendor|KBVE
		licenses|MIT
		source|https://github.com/KBVE/kbve
		version|$version
	END
	check "label description" has "supervised by kasm-void" configured '{{index .Config.Labels "org.opencontainers.image.description"}}'
	for value in HOME=/home/kasm-user STARTUPDIR=/dockerstartup START_URL=https://kbve.com CLOAK_HOME=/opt/cloakbrowser \
		CLOAK_BIN=/opt/cloakbrowser/cloakbrowser CDP_PORT=9222 NAV_SHIM_PORT=9998 LAUNCH_CLOAK=1 LAUNCH_DISCORD=1 \
		LAUNCH_NAV_SHIM=1 MAXIMIZE=true APP_ARGS=--no-sandbox KASM_VOID_STATE=/tmp/kasm-void; do
		check "ENV $value" has "\"$value\"" configured '{{json .Config.Env}}'
	done
	check "no token among them" not has TOKEN configured '{{json .Config.Env}}'
}

# The bytes of our layers, without the binary (a debug build here) and CloakBrowser.
added() {
	docker history --no-trunc --human=false --format '{{.Size}} {{.CreatedBy}}' "$IMAGE" |
		grep -v -e 'cloakbrowser.sh' -e 'kasm-void /usr/local/bin' | sed '$d' | awk '{ sum += $1 } END { print sum }'
}

content() {
	step "what is in the image"
	local files binary
	if [ -n "$IMAGE_BASE" ]; then
		files=$(added) binary=$(stat -c %s "$IMAGE_WORK/binary/kasm-void")
		check "all that we add besides programs is under 5 MB" test "$files" -lt 5000000
		if [ -n "${IMAGE_RELEASE:-}" ]; then
			check "with the binary it is under 15 MB" test $((files + binary)) -lt 15000000
			echo "       $((files + binary)) bytes, $binary of them the binary"
		else
			echo "   NOT CHECKED: that it is under 15 MB with the binary, which is no release build here"
		fi
	fi
	docker run --detach --name content --network none --entrypoint sleep "$IMAGE" infinity >/dev/null
	check "the binary, of this version" is "kasm-void $version" at content kasm-void --version
	check "its manifests have no mistake" ends 0 at content kasm-void check /usr/share/kasm-void/manifests
	check "nothing of ours can be written by the user" is "" at content find /usr/local/bin/kasm-void /usr/share/kasm-void \
		/etc/kasm-void /opt/kasm-void /opt/cloakbrowser /dockerstartup ! -type l -writable
	check "and all of it is root's" is "" at content find /usr/local/bin/kasm-void /usr/share/kasm-void /etc/kasm-void \
		/opt/kasm-void /opt/cloakbrowser ! -user root
	if [ -n "$IMAGE_BASE" ]; then
		check "upstream's start script is kept" is "$(sha256sum <$here/kasm/dockerstartup/custom_startup.sh)" \
			at content sh -c 'sha256sum </dockerstartup/discord_startup.sh'
		check "and its window script" is "$(sha256sum <$here/kasm/dockerstartup/maximize_window.sh)" \
			at content sh -c 'sha256sum </dockerstartup/maximize_window.sh'
		check "and no Python was installed" is "$(docker run --rm --network none --entrypoint dpkg-query "$IMAGE_BASE" --list '*python*')" \
			at content dpkg-query --list '*python*'
	fi
	local path
	for path in /dockerstartup/custom_startup.sh /dockerstartup/discord_startup.sh /dockerstartup/maximize_window.sh \
		/opt/cloakbrowser/cloakbrowser /usr/share/discord/Discord /usr/bin/xfce4-terminal /usr/bin/zenity \
		/opt/kasm-void/scripts/click.sh /opt/kasm-void/scripts/open.sh /opt/kasm-void/scripts/open-url.sh; do
		check "$path can be run" at content test -x "$path"
	done
	for path in terminal discord discord-reset cloakbrowser cloakbrowser-reload open-url; do
		check "icon $path" at content test -x "/opt/kasm-void/Desktop/$path.desktop"
	done
	check "no process in it can become another user" not at content setpriv --reuid 1001 true
	check "the browser starts" has Chromium at content /opt/cloakbrowser/cloakbrowser --version
	check "no Python is left behind" is "" at content find /opt/kasm-void /dockerstartup -name '*.py'
	check "no package lists either" is "" at content sh -c 'ls /var/lib/apt/lists'
	check "--go without a URL does nothing" has "nothing to do" at content /dockerstartup/custom_startup.sh --go
	check "and is no failure" ends 0 at content /dockerstartup/custom_startup.sh --assign
	check "an unknown option is" ends 2 at content /dockerstartup/custom_startup.sh --gone
	check "--go without a live session is told" ends 3 at --env URL_LAUNCHER_TOKEN=x content /dockerstartup/custom_startup.sh --go --url http://93.184.215.14/
	check "a volume that belongs to root is named, with the fix" has "as root: chown 1000:" docker run --rm --network none \
		--tmpfs /home/kasm-user:uid=0,mode=0755 --entrypoint kasm-void "$IMAGE" doctor
	down content
}

session() {
	step "a session boots"
	docker volume create home >/dev/null
	local began=$SECONDS
	up one --volume home:/home/kasm-user
	check "the desktop is ready" ready one
	check "both apps run" eventually both_run one
	echo "       after $((SECONDS - began)) s"
	check "a process is named exactly Discord" at one pgrep -x Discord
	check "the browser answers" at one curl --silent --fail http://127.0.0.1:9222/json/version
	check "each app was started once, cloakbrowser" is 1 spawned one cloakbrowser
	check "each app was started once, discord" is 1 spawned one discord
	check "the log is JSON lines with level and msg" is "" sh -c "docker logs one 2>&1 | grep '^{' | grep -v '\"level\":\"[a-z]*\",\"msg\":'"
	check "no secret is in it" is "" sh -c "docker logs one 2>&1 | grep -e the-token -e the-vnc-password"
	check "nor in the browser's environment" not has the-token environment_of one cloakbrowser
	check "nor in Discord's" not has the-token environment_of one discord
	check "quoted arguments stay whole" has "--user-agent=An agent with spaces" at one sh -c "tr '\\0' '\\n' </proc/$(pid one discord)/cmdline"
	check "Discord's settings are seeded" has '"SKIP_HOST_UPDATE": true' at one cat .config/discord/settings.json
	check "icons are on the desktop" at one sh -c 'for icon in terminal discord discord-reset cloakbrowser cloakbrowser-reload open-url; do test -x Desktop/$icon.desktop || exit 1; done'
	check "scripts are in the home" at one test -x scripts/click.sh
	check "XFCE trusts the icons" is "metadata::xfce-exe-checksum: $(sha256sum image/rootfs/opt/kasm-void/Desktop/discord.desktop | cut -d' ' -f1)" \
		on_the_bus one "gio info --attributes metadata::xfce-exe-checksum Desktop/discord.desktop | grep -o 'metadata::.*'"
	check "Discord's window is maximised" eventually has MAXIMIZED at one sh -c 'xprop -id "$(xdotool search --class discord | tail -n 1)" _NET_WM_STATE'
}

launcher() {
	step "the launcher answers"
	check "GET /healthz" eventually is '{"ok":true}' at one curl --silent --fail http://127.0.0.1:9998/healthz
	check "no bearer is 401" is 401 answered one -X POST -d '{"url":"https://example.com"}'
	check "a wrong bearer is 401" is 401 answered one -X POST -H 'Authorization: Bearer no' -d '{"url":"https://example.com"}'
	check "not JSON is 400" is 400 answered one -X POST -H 'Authorization: Bearer the-token' -d nothing
	check "another method is 404" is 404 answered one -X DELETE
	check "a name inside the cluster is refused" has "rejected by policy" at one curl --silent -X POST \
		-H 'Authorization: Bearer the-token' -d '{"url":"https://kubernetes/"}' http://127.0.0.1:9998/open
	# Each of these must be a line on stdout and a row in ClickHouse: tests/image/pipeline/try.py counts them.
	local number
	for number in 1 2 3 4 5; do
		check "request $number of the audit is refused" has "rejected by policy" at one curl --silent -X POST -H 'Authorization: Bearer the-token' \
			-d "{\"url\":\"https://audit-$number.internal/secret-path?key=secret-query\"}" http://127.0.0.1:9998/open
	done
	check "KASM's --go hands the URL on, and tells why it is refused" ends 1 at one /dockerstartup/custom_startup.sh --go --url https://kubernetes/
	local go=(docker exec --env KASM_URL=https://second.internal/ --env LAUNCH_URL=https://third.internal/)
	check "--url comes before the environment" ends 1 "${go[@]}" one /dockerstartup/custom_startup.sh --assign --url https://first.internal/
	check "it was asked for" eventually is '"host":"first.internal"' last_host
	check "its short form, with KASM_URL" ends 1 "${go[@]}" one /dockerstartup/custom_startup.sh -a
	check "it was asked for" eventually is '"host":"second.internal"' last_host
	check "LAUNCH_URL, when KASM_URL is empty" ends 1 "${go[@]}" --env KASM_URL= one /dockerstartup/custom_startup.sh -g
	check "it was asked for" eventually is '"host":"third.internal"' last_host
}

# The host of the last request in the audit.
last_host() {
	docker logs one 2>/dev/null | grep '"event":"launcher.request"' | tail -n 1 | grep -o '"host":"[^"]*"'
}

command_line() {
	at "$1" sh -c "tr '\\0' ' ' </proc/$(pid "$1" "$2")/cmdline"
}

titles() {
	at "$1" curl --silent http://127.0.0.1:9222/json/list
}

guard_proxy() {
	step "the guard proxy"
	check "it runs" eventually is Running state one proxy
	check "it is the browser's way out" has "--proxy-server=http://127.0.0.1:9997 --proxy-bypass-list=<-loopback>" command_line one cloakbrowser
	check "and not Discord's" not has proxy-server command_line one discord
	check "the browser's policies are in the image" has '"LocalNetworkBlockedForUrls": ["*"]' at one cat /etc/chromium/policies/managed/kasm-void.json
	check "a private host is refused" has private-address at one curl --silent --proxy http://127.0.0.1:9997 http://169.254.169.254/
	check "so are the DevTools, through it" has own-port at one curl --silent --proxy http://127.0.0.1:9997 http://127.0.0.1:9222/json/version
	check "a person who asks for one" at one kasm-void show cloakbrowser http://10.0.0.1/
	check "reads why it is not opened" eventually has "This page is not opened here" titles one
	check "a refusal is a line of the log" eventually has '"event":"proxy.refused","host":"10.0.0.1","rule":"private-address"' docker logs one
	check "nothing is said of it while all is well" not has warning at one kasm-void status
}

# A stock deployment has one secret, and KASM's own script removes it from the environment.
vnc_password_is_the_token() {
	step "with the VNC password alone"
	up stock --env URL_LAUNCHER_TOKEN=
	check "the desktop is ready" ready stock
	check "both apps run" eventually both_run stock
	check "it is the launcher's bearer" eventually has "rejected by policy" at stock curl --silent -X POST \
		-H 'Authorization: Bearer the-vnc-password' -d '{"url":"https://kubernetes/"}' http://127.0.0.1:9998/open
	check "nothing else is" is 401 answered stock -X POST -H 'Authorization: Bearer the-token' -d '{"url":"https://example.com"}'
	check "on the desktop a page is opened without any token" has "policy" docker exec --env VNC_PW= --env URL_LAUNCHER_TOKEN= stock kasm-void open https://kubernetes/
	check "nobody looks into PID 1, or into the launcher" is "" at stock sh -c "cat /proc/1/environ /proc/\$(pgrep -f 'kasm-void nav-shim')/environ 2>/dev/null"
	check "--go has it" has "policy" at stock /dockerstartup/custom_startup.sh --go --url https://kubernetes/
	check "the browser's environment has not" not has the-vnc-password environment_of stock cloakbrowser
	check "nor is the way to it there" not has TOKEN_FILE environment_of stock cloakbrowser
	check "nor in Discord's" not has the-vnc-password environment_of stock discord
	down stock
}

answered() {
	local name=$1
	shift
	at "$name" curl --silent --output /dev/null --write-out '%{http_code}' "$@" http://127.0.0.1:9998/open
}

icons() {
	step "each icon does what it says"
	check "Terminal" click one terminal
	check "Terminal: it is there" eventually at one pgrep -f xfce4-terminal
	at one pkill -f xfce4-terminal

	local browser discord before
	browser=$(pid one cloakbrowser) discord=$(pid one discord) before=$(windows one chrom)
	check "CloakBrowser" click one cloakbrowser
	check "CloakBrowser: a new window" eventually more_windows one chrom "$before"
	check "CloakBrowser: of the same browser" is "$browser" pid one cloakbrowser
	check "Discord" click one discord
	check "Discord: the same one" is "$discord" pid one discord
	check "Discord: nothing was doubled" is 1 spawned one discord

	check "Reload CloakBrowser" click one cloakbrowser-reload
	check "Reload CloakBrowser: a new process" eventually other_pid one cloakbrowser "$browser"
	at one sh -c 'mkdir -p ".config/discord/Code Cache/js" ".config/discord/Local Storage" && touch ".config/discord/Code Cache/js/x" ".config/discord/Local Storage/login"'
	check "Reset Discord" click one discord-reset
	check "Reset Discord: a new process" eventually other_pid one discord "$discord"
	check "Reset Discord: its caches are gone" not at one test -e ".config/discord/Code Cache/js/x"
	check "Reset Discord: the login is not" at one test -e ".config/discord/Local Storage/login"
	check "no question was asked, and no error told" not window_named one "^(Error|Untrusted|Question)"
	raised
	open_url
}

# What the launcher does when a page is shown, on a virtual desktop that has no window.
raised() {
	at one sh -c '
		wmctrl -s 1
		tab=$(curl --silent http://127.0.0.1:9222/json/list | grep -m1 -o "\"id\": \"[^\"]*\"" | cut -d\" -f4)
		curl --silent --output /dev/null "http://127.0.0.1:9222/json/activate/$tab"'
	check "a page is brought to the virtual desktop that people look at" eventually at one sh -c '
		window=$(xprop -root _NET_ACTIVE_WINDOW | grep -o "0x[0-9a-f]*")
		now=$(xprop -root _NET_CURRENT_DESKTOP | tr -dc 0-9)
		xprop -id "$window" WM_CLASS _NET_WM_DESKTOP | tr A-Z a-z | tr -d "\n" | grep "chrom.*cardinal) = $now$"'
	at one wmctrl -s 0
}

open_url() {
	check "Open URL" click one open-url
	check "Open URL: it asks" eventually window_named one "^Open URL in Browser$"
	at one sh -c 'xdotool windowactivate --sync "$(xdotool search --name "^Open URL in Browser$" | tail -n 1)" key Escape'
	check "Open URL: no address is no failure" eventually not at one pgrep -f open-url.sh
	docker exec --detach --env DISPLAY=:1 one sh -c '/opt/kasm-void/scripts/open-url.sh; echo $? >/tmp/opened'
	check "Open URL: it asks again" eventually window_named one "^Open URL in Browser$"
	at one sh -c 'xdotool windowactivate --sync "$(xdotool search --name "^Open URL in Browser$" | tail -n 1)" key ctrl+a type "ftp://example.com"; xdotool key Return'
	check "Open URL: another scheme gets an error" eventually at one pgrep -f 'zenity --error'
	check "Open URL: in a window" eventually window_named one "^Open URL in Browser$"
	at one sh -c 'xdotool windowactivate --sync "$(xdotool search --name "^Open URL in Browser$" | tail -n 1)" key Return'
	check "Open URL: and code 1" eventually is 1 at one cat /tmp/opened
}

incidents() {
	step "incidents that were paid for"
	local before
	before=$(at one pgrep -c -x kasm-void)
	check "a second supervisor is refused" not at one kasm-void run /usr/share/kasm-void/manifests
	check "nor is --go a second session" is "$before" at one pgrep -c -x kasm-void
	before=$(pid one discord)
	docker exec --detach one sh -c 'exec tail -f /dev/null /usr/share/discord/Discord /opt/cloakbrowser/cloakbrowser'
	at one kill -9 "$before"
	check "a command line with its name does not keep a dead app alive" eventually other_pid one discord "$before"
	at one pkill -f 'tail -f /dev/null'
	check "Docker's own health check agrees" eventually is healthy docker inspect --format '{{.State.Health.Status}}' one

	docker run --detach --name bare --network none --cap-drop ALL --tmpfs /usr/share/discord --env VNC_PW=the-vnc-password --env LAUNCH_NAV_SHIM=0 "$IMAGE" >/dev/null
	check "without Discord's program the browser runs" eventually is Running state bare cloakbrowser
	check "a missing program is tried with growing waits" eventually is Backoff state bare discord
	check "--go opens a page without the launcher" eventually at bare /dockerstartup/custom_startup.sh --go --url http:93.184.215.14/a%20b
	check "in the running browser" eventually has 'http://93.184.215.14/a%20b' at bare curl --silent http://127.0.0.1:9222/json/list
	check "and refuses what the launcher would" has "refused" at bare /dockerstartup/custom_startup.sh --go --url https://kubernetes/
	check "and leaves no X client behind" at bare sh -c '[ "$(xlsclients -display :1 | wc -l)" -lt 20 ]'
	check "without the launcher the pod is still alive" at bare kasm-void health --live
	down bare
	check "a name inside the cluster is no address to open" ends 1 at one kasm-void check-url --no-resolve https://kubernetes/
}

persistence() {
	step "a home outlives its container"
	at one sh -c 'echo "# mine" >>Desktop/terminal.desktop; rm Desktop/discord-reset.desktop'
	docker logs one >"$IMAGE_WORK/stdout.log" 2>/dev/null
	docker kill one >/dev/null
	check "the killed browser's lock names its host" has one- fresh_container_sees home 'readlink .config/cloakbrowser/SingletonLock'
	down one
	mounted two
	up two --volume home:/home/kasm-user --volume "$IMAGE_WORK/mounted:/etc/kasm-void/manifests:ro" --env MAXIMIZE=false
	check "on another host the desktop is ready" ready two
	check "and both apps run" eventually both_run two
	check "what a person edited stays" at two grep -q '# mine' Desktop/terminal.desktop
	check "what they removed stays away" not at two test -e Desktop/discord-reset.desktop
	check "MAXIMIZE=false maximises nothing" not has maximised docker logs two
	check "nobody asks about the profile" not window_named two "^(Error|Question)"
}

# mounted WORD: writes a ConfigMap's folder and swaps it, like the kubelet.
mounted() {
	local folder=$IMAGE_WORK/mounted
	mkdir -p "$folder/..$1"
	printf 'App(command: "/bin/sh", args: ["-c", "while sleep 1000; do :; done", "%s"], icon: Icon(name: "Mounted"))\n' "$1" >"$folder/..$1/mounted.ron"
	ln -sfn "..$1" "$folder/..data_new"
	mv -T "$folder/..data_new" "$folder/..data"
	ln -sfn ..data/mounted.ron "$folder/mounted.ron"
}

operators_app() {
	step "an operator's manifest"
	check "the app is there" is Running state two mounted
	check "and its icon" at two test -x Desktop/mounted.desktop
	local app browser
	app=$(pid two mounted) browser=$(pid two cloakbrowser)
	mounted three
	check "an edit is applied" eventually other_pid two mounted "$app"
	check "with what it says" has three at two sh -c "tr '\\0' ' ' </proc/$(pid two mounted)/cmdline"
	check "the others never noticed" is "$browser" pid two cloakbrowser
}

# Both windows beside the icons, and the status in a terminal that a real double click opened.
picture() {
	step "a picture, and a double click"
	at one sh -c '
		wmctrl -r Start -b remove,maximized_vert,maximized_horz; wmctrl -r Start -e 0,260,10,600,420
		wmctrl -r Discord -b remove,maximized_vert,maximized_horz; wmctrl -r Discord -e 0,880,10,390,420'
	check "a double click starts the launcher without a question" double_click one at one wmctrl -x -a xfce4-terminal
	at one sh -c '
		wmctrl -x -r xfce4-terminal -e 0,260,470,1010,240
		xdotool type --delay 20 "kasm-void status"; xdotool key Return; sleep 2
		scrot --overwrite /tmp/screen.png; pkill -f xfce4-terminal'
	at one sh -c 'echo "# mine" >>Desktop/terminal.desktop'
	check "one that somebody has edited is asked about" double_click one window_named one "^Attention$"
	at one sh -c 'xdotool key Escape; cp /opt/kasm-void/Desktop/terminal.desktop Desktop/'
	docker cp one:/tmp/screen.png "$IMAGE_WORK/screen.png" >/dev/null
	check "the desktop can be seen" test "$(stat -c %s "$IMAGE_WORK/screen.png")" -gt 10000
	if [ -n "${SCREENSHOT:-}" ]; then
		cp "$IMAGE_WORK/screen.png" "$SCREENSHOT"
	fi
}

ending() {
	step "docker stop"
	local began=$SECONDS
	docker stop --time 25 two >/dev/null
	echo "       after $((SECONDS - began)) s"
	check "the apps are told to end" has '"event":"drain.begun"' docker logs two
	# When the grace is used up, the engine kills everything, and the code is 137.
	check "it ends by itself, inside the grace" is 0 docker inspect --format '{{.State.ExitCode}}' two
	check "the browser left no lock" is "" fresh_container_sees home 'ls -A .config/cloakbrowser | grep Singleton'
	down two
	docker volume rm home >/dev/null
}

switches() {
	step "switches"
	up loose --env LAUNCH_DISCORD=0 --env LAUNCH_PROXY=0
	check "LAUNCH_PROXY=0 gives the browser another way out" eventually is Running state loose cloakbrowser
	check "without our flags" not has proxy-server command_line loose cloakbrowser
	check "status says so" has "LAUNCH_PROXY is off" at loose kasm-void status
	check "and doctor" has "LAUNCH_PROXY is off" at loose kasm-void doctor
	down loose
	up tight --env LAUNCH_DISCORD=0 --env "CLOAK_APP_ARGS=--no-sandbox --disable-gpu --no-proxy-server --proxy-server=direct://"
	check "an override of the browser's arguments" eventually is Running state tight cloakbrowser
	check "keeps the proxy" has "--proxy-server=http://127.0.0.1:9997" command_line tight cloakbrowser
	check "and nothing that cancels it" not has "--no-proxy-server" command_line tight cloakbrowser
	check "and is told" has "args_fixed" at tight kasm-void check /usr/share/kasm-void/manifests
	down tight
	docker volume create clean >/dev/null
	up off --volume clean:/home/kasm-user --env DISABLE_CUSTOM_STARTUP=1 --env LAUNCH_DISCORD=no
	check "DISABLE_CUSTOM_STARTUP stages the desktop" eventually at off test -x Desktop/discord.desktop
	check "and starts nothing" is Stopped state off cloakbrowser
	check "status and health work" eventually at off kasm-void health
	check "so does a start by hand" at off kasm-void start cloakbrowser --timeout 60s
	check "LAUNCH_DISCORD=no starts no Discord" is Stopped state off discord
	docker stop --time 25 off >/dev/null
	check "a stopped browser has closed its profile" has '"exit_type":"Normal"' fresh_container_sees clean \
		'grep -o "\"exit_type\":\"[A-Za-z]*\"" .config/cloakbrowser/Default/Preferences'
	down off
	docker volume rm clean >/dev/null
}

restarts() {
	step "stopped, killed and cut off, and started again each time"
	docker volume create life >/dev/null
	up life --volume life:/home/kasm-user
	check "it is ready" ready life
	check "both apps run" eventually both_run life
	local how
	for how in stopped killed "cut off while it stops"; do
		# A stop by hand belongs to the session that ends here.
		at life kasm-void stop discord >/dev/null
		case $how in
		stopped) docker stop --time 25 life >/dev/null ;;
		killed) docker kill life >/dev/null ;;
		*)
			docker kill --signal TERM life >/dev/null
			docker kill life >/dev/null 2>&1 # it may be gone already
			docker wait life >/dev/null
			;;
		esac
		docker start life >/dev/null
		check "$how: ready again" ready life
		check "$how: both apps run again" eventually both_run life
		check "$how: the icons are there" at life test -x Desktop/discord.desktop
	done
	down life
	docker volume rm life >/dev/null
}

# A home left by the older image: its icons and scripts, a login, a lock of its pod, and a settings file.
predecessor_boots() {
	docker run --rm --network none --user 1000 --volume old:/home/kasm-user --entrypoint bash "$IMAGE" -euc '
		cd "$HOME"
		mkdir -p Desktop scripts ".config/discord/Local Storage" .config/cloakbrowser
		icon() { printf "[Desktop Entry]\nType=Application\nName=%s\nExec=%s\n" "$2" "$3" >"Desktop/$1.desktop"; chmod +x "Desktop/$1.desktop"; }
		icon CloakBrowser CloakBrowser "/opt/cloakbrowser/cloakbrowser --no-sandbox %U"
		icon Discord Discord "bash -c \"/home/kasm-user/scripts/seed-discord-config.sh && exec /usr/share/discord/Discord\""
		icon LaunchURL "Open URL in Browser" /home/kasm-user/scripts/launch-url.sh
		icon ReloadCloak "Reload CloakBrowser" /home/kasm-user/scripts/reload-cloak.sh
		icon ResetDiscord "Reset Discord" /home/kasm-user/scripts/reset-discord.sh
		icon Terminal Terminal xfce4-terminal
		echo "zenity --title=\"Open URL in CloakBrowser\"" >scripts/launch-url.sh
		for script in reload-cloak reset-discord seed-discord-config; do echo "echo [$script]" >scripts/$script.sh; done
		echo mine >scripts/mine.sh
		echo token >".config/discord/Local Storage/login"
		echo "{ \"SKIP_HOST_UPDATE\": true, \"MINE\": 12345678901234567890 }" >.config/discord/settings.json
		ln -sfn kasm-vpn-old-4711 .config/cloakbrowser/SingletonLock'
}

migration() {
	step "a home of the predecessor: there, once more, and back"
	docker volume create old >/dev/null
	check "the predecessor has filled a home" predecessor_boots
	check "before the swap, doctor says what is stale" has "still has files of the older image" docker run --rm --network none \
		--volume old:/home/kasm-user --entrypoint kasm-void "$IMAGE" doctor
	local round
	for round in first second; do
		up "old-$round" --volume old:/home/kasm-user
		check "the $round boot on it is ready" ready "old-$round"
		check "no icon is there twice" is "" at "old-$round" sh -c 'sed -n "s/^Name=//p" Desktop/*.desktop | sort | uniq -d'
		check "the icons are ours" is "cloakbrowser-reload.desktop cloakbrowser.desktop discord-reset.desktop discord.desktop open-url.desktop terminal.desktop " \
			at "old-$round" sh -c 'ls Desktop | tr "\n" " "'
		check "its own are kept" at "old-$round" sh -c 'cd .local/share/kasm-void/predecessor && test -f Desktop/LaunchURL.desktop -a -f scripts/launch-url.sh'
		check "doctor says where they are" has "of the older image were moved to" at "old-$round" kasm-void doctor
		check "and nothing is stale" not has "still has files" at "old-$round" kasm-void doctor
		check "a script of the person's stays" at "old-$round" grep -q mine scripts/mine.sh
		check "the login stays" is token at "old-$round" cat ".config/discord/Local Storage/login"
		check "so do settings that are not ours" has '"MINE": 12345678901234567890' at "old-$round" cat .config/discord/settings.json
		docker stop --time 25 "old-$round" >/dev/null
		down "old-$round"
	done
	check "the predecessor boots on it again" predecessor_boots
	up old-third --volume old:/home/kasm-user
	check "and ours after it" ready old-third
	check "with each icon once" is "" at old-third sh -c 'sed -n "s/^Name=//p" Desktop/*.desktop | sort | uniq -d'
	down old-third
	docker volume rm old >/dev/null
}

# Two containers must not use one profile, whichever of them ends how.
shared_home() {
	step "two containers on one home"
	docker volume create shared >/dev/null
	up first --volume shared:/home/kasm-user
	check "the first is ready" ready first
	check "its apps run" eventually both_run first
	local browser
	browser=$(pid first cloakbrowser)
	up second --volume shared:/home/kasm-user
	check "the desktop of the second is ready too" ready second
	check "its browser waits" eventually is Backoff state second cloakbrowser
	check "so does its Discord" eventually is Backoff state second discord
	check "it says which host has the profile" eventually has 'in use by the session on host `first`' docker logs second
	check "and started neither" is "0 0" echo "$(spawned second cloakbrowser) $(spawned second discord)"
	check "the lock is the first one's" has first- at first readlink .config/cloakbrowser/SingletonLock
	check "whose browser never noticed" is "$browser" pid first cloakbrowser
	docker kill first >/dev/null
	check "when the first is killed, the second takes over" eventually both_run second
	check "with a lock of its own" has second- at second readlink .config/cloakbrowser/SingletonLock
	docker start first >/dev/null
	check "the first is back and waits now" eventually is Backoff state first cloakbrowser
	docker stop --time 25 second >/dev/null
	check "when the second is stopped, the first takes over" eventually both_run first
	down first second
	docker volume rm shared >/dev/null
}

docker rm --force one two bare off loose tight content stock life old-first old-second old-third first second >/dev/null 2>&1
docker volume rm home clean life old shared >/dev/null 2>&1
rm -rf "$IMAGE_WORK/mounted"
if [ -n "$IMAGE_BASE" ]; then
	build
	refused_builds
	build_without_them
fi
metadata
content
session
picture
launcher
guard_proxy
vnc_password_is_the_token
icons
incidents
persistence
operators_app
ending
switches
restarts
migration

shared_home
told
