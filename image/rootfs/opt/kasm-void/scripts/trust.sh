#!/bin/bash
# trust.sh SHIPPED DESKTOP: marks the icons in DESKTOP that equal those in SHIPPED as trusted, so that XFCE starts them
# without asking. A desktop without such marks does not ask.
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

# A service on the session bus stores the marks.
if [ -n "${DBUS_SESSION_BUS_ADDRESS:-}" ]; then
	vouch
else
	export -f vouch
	export shipped desktop
	exec dbus-run-session -- bash -c vouch
fi
