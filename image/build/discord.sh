#!/bin/bash
# discord.sh DIR: makes sure that DIR/Discord is there. Upstream's package has held nothing but a downloader
# since 2026: a build without the binary once became a session that started it every second for nothing.
set -euo pipefail

dir=$1

fail() {
	echo "discord: $*" >&2
	exit 1
}

fetch() {
	local bootstrap=$dir/updater_bootstrap app
	[ -x "$bootstrap" ] || fail "there is neither $dir/Discord nor upstream's downloader $bootstrap: choose a base that has one of them"
	timeout 600 "$bootstrap" --no-zenity "$dir" stable https://updates.discord.com/ ||
		fail "upstream's downloader failed: can the builder reach updates.discord.com?"
	app=$(find "$dir" -mindepth 2 -maxdepth 2 -type f -path "$dir/app-*/Discord" | sort -V | tail -n 1)
	[ -n "$app" ] || fail "upstream's downloader brought no $dir/app-*/Discord: its layout has changed"
	chmod 0755 "$app"
	ln -sf "${app#"$dir/"}" "$dir/Discord"
	# What it brought belongs to whom Discord runs as: an update that it insists on then works instead of
	# ending in a dialog.
	chown -R 1000:1000 "$(dirname "$app")"
}

[ -x "$dir/Discord" ] || fetch
[ -x "$dir/Discord" ] || fail "$dir/Discord is still missing"
