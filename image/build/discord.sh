#!/bin/bash
# discord.sh DIR: makes sure that DIR/Discord can be run. Since 2026 upstream's package holds only a downloader; an image
# that was built without the program once started it every second, for nothing.
set -euo pipefail

dir=$1

fail() {
	echo "discord: $*" >&2
	exit 1
}

# The newest Discord below DIR/app, however deep the downloader puts it.
newest() {
	find "$dir/app" -mindepth 1 -maxdepth 5 -type f -name Discord -perm -u+x 2>/dev/null | sort -V | tail -n 1
}

fetch() {
	local bootstrap=$dir/updater_bootstrap app code=0
	[ -x "$bootstrap" ] || fail "there is neither $dir/Discord nor upstream's downloader $bootstrap: choose a base image that has one of them, or build with --build-arg DISCORD=0"
	mkdir -p "$dir/app"
	# Its exit code says little: it is not 0 where there is no display, although the program has arrived.
	timeout 600 "$bootstrap" "$dir/app" stable --no-zenity || code=$?
	app=$(newest)
	[ -n "$app" ] || fail "upstream's downloader (exit code $code) brought no program named Discord into $dir/app: can the builder reach Discord's update servers?"
	ln -sf "${app#"$dir/"}" "$dir/Discord"
	# The user that Discord runs as may update it: otherwise an update that Discord insists on ends in a dialog.
	chown -R 1000:1000 "$dir/app"
	chmod -R a+rX "$dir/app"
}

[ -x "$dir/Discord" ] || fetch
[ -x "$dir/Discord" ] || fail "$dir/Discord is still missing"
