#!/bin/bash
# trust.sh SHIPPED DESKTOP: vouches for the launchers in DESKTOP that are as SHIPPED has them, so that XFCE starts
# them without a question. A desktop that keeps no such marks asks none.
set -u

shipped=$1 desktop=$2

command -v gio >/dev/null || exit 0

vouch() {
	local file name sum
	for file in "$shipped"/*.desktop; do
		name=$desktop/${file##*/}
		cmp -s "$file" "$name" || continue
		sum=$(sha256sum "$name")
		gio set -t string "$name" metadata::xfce-exe-checksum "${sum%% *}" 2>/dev/null || return 0
	done
}

# The marks are kept by a service of the session bus.
if [ -n "${DBUS_SESSION_BUS_ADDRESS:-}" ]; then
	vouch
else
	export -f vouch
	export shipped desktop
	exec dbus-run-session -- bash -c vouch
fi
