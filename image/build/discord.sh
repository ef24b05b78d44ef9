#!/bin/bash
# discord.sh DIR: makes sure that DIR/Discord can be run. Since 2026 upstream's package holds only a downloader. An image
# that was built without the program once tried to start it every second.
set -euo pipefail

dir=$1

fail() {
	echo "discord: $*" >&2
	exit 1
}

# Prints the newest Discord below DIR/app, at any depth.
newest() {
	find "$dir/app" -mindepth 1 -maxdepth 5 -type f -name Discord -perm -u+x 2>/dev/null | sort -V | tail -n 1
}

fetch() {
	local bootstrap=$dir/updater_bootstrap app code=0
	[ -x "$bootstrap" ] || fail "there is neither $dir/Discord nor upstream's downloader $bootstrap: choose a base image that has one of them, or build with --build-arg DISCORD=0"
	mkdir -p "$dir/app"
	# Ignore its exit code: without a display it fails although it has downloaded the program.
	timeout 600 "$bootstrap" "$dir/app" stable --no-zenity || code=$?
	app=$(newest)
	[ -n "$app" ] || fail "upstream's downloader (exit code $code) brought no program named Discord into $dir/app: can the builder reach Discord's update servers?"
	ln -sf "${app#"$dir/"}" "$dir/Discord"
	# Let Discord's user update it: otherwise a mandatory update ends in a dialog.
	chown -R 1000:1000 "$dir/app"
	chmod -R a+rX "$dir/app"
}

[ -x "$dir/Discord" ] || fetch
[ -x "$dir/Discord" ] || fail "$dir/Discord is still missing"
