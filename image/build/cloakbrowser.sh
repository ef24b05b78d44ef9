#!/bin/bash
# cloakbrowser.sh ARCHIVES DIR: unpacks CloakBrowser into DIR, from ARCHIVES/cloakbrowser.tar.gz if it exists, otherwise
# from CLOAK_URL. Its SHA-256 must be CLOAK_SHA256, unless CLOAK_UNVERIFIED is set.
set -euo pipefail

archives=$1 dir=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
	echo "cloakbrowser: $*" >&2
	exit 1
}

fetch() {
	if [ -f "$archives/cloakbrowser.tar.gz" ]; then
		archive=$archives/cloakbrowser.tar.gz
		return
	fi
	archive=$work/cloakbrowser.tar.gz
	curl --fail --location --retry 3 --silent --show-error --output "$archive" "$CLOAK_URL" ||
		fail "cannot download $CLOAK_URL: name a version that exists in CLOAK_VERSION, or give the archive as --build-context cloak-archive=DIR"
}

verify() {
	if [ -n "$CLOAK_UNVERIFIED" ]; then
		echo "cloakbrowser: the archive is not verified, because CLOAK_UNVERIFIED is set" >&2
		return
	fi
	[ -n "$CLOAK_SHA256" ] || fail "CLOAK_SHA256 is empty: name the archive's SHA-256, or set CLOAK_UNVERIFIED=1 to go without"
	local found
	found=$(sha256sum "$archive" | cut -d' ' -f1)
	[ "$found" = "$CLOAK_SHA256" ] ||
		fail "the archive's SHA-256 is $found, and CLOAK_SHA256 is $CLOAK_SHA256: is it the checksum of this version?"
}

# The browser's folder is the root of the archive (flat) or a folder in it (wrapped).
unpack() {
	mkdir "$work/unpacked"
	tar --extract --gzip --no-same-owner --file "$archive" --directory "$work/unpacked"
	local found
	found=$(find "$work/unpacked" -maxdepth 3 -type f \( -name cloakbrowser -o -name chrome \) -perm -u+x | sort | head -n 1)
	[ -n "$found" ] || fail "no program named chrome or cloakbrowser in the archive: its layout has changed"
	rm -rf "$dir"
	mv "$(dirname "$found")" "$dir"
	[ -e "$dir/cloakbrowser" ] || ln -s chrome "$dir/cloakbrowser"
	chown -R 0:0 "$dir"
	chmod -R u+rwX,go+rX,go-w "$dir"
}

fetch
verify
unpack
