#!/bin/sh
# apt.sh ARGUMENTS…: runs `apt-get ARGUMENTS…` quietly. If another package manager holds a lock (an unattended upgrade, a
# second build), it waits up to five minutes. apt's own lock timeout covers only one of its three locks.
set -eu

patience=${APT_PATIENCE:-300}
deadline=$(($(date +%s) + patience))
told=

while ! output=$(LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qq -o "DPkg::Lock::Timeout=$patience" "$@" 2>&1); do
	case $output in
	*"Could not get lock"* | *"Unable to lock"* | *"Unable to acquire"*)
		if [ "$(date +%s)" -lt "$deadline" ]; then
			[ -n "$told" ] || echo "apt: another package manager is running; waiting for it up to $patience s" >&2
			told=yes
			sleep 2
			continue
		fi
		;;
	esac
	printf '%s\n' "$output" >&2
	echo "apt: apt-get $* failed" >&2
	exit 1
done
