#!/bin/sh
# Makes a Debian or Ubuntu machine ready: `setup.sh session` for the desktop session, `setup.sh tests`
# (the default) for the tests too. Root: installs through apt what is missing, and says so. Anybody
# else: is told what to ask root for. Touches nothing when all is there.
set -eu

purpose=${1:-tests}
rust_wanted=1.95
missing=

say() {
	printf 'setup: %s\n' "$*"
}

fail() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

have() {
	command -v "$1" >/dev/null 2>&1
}

# need COMMAND PACKAGE
need() {
	have "$1" || missing="$missing $2"
}

# need_file PATH PACKAGE
need_file() {
	[ -e "$1" ] || missing="$missing $2"
}

browser() {
	for name in "${CHROMIUM_BIN:-chromium}" chromium chromium-browser google-chrome-stable google-chrome; do
		if have "$name"; then
			return 0
		fi
	done
	return 1
}

list_missing() {
	missing=
	need cc build-essential
	need Xtigervnc tigervnc-standalone-server
	need openbox openbox
	need wmctrl wmctrl
	need websockify websockify
	need_file /usr/share/novnc/vnc.html novnc
	need xterm xterm
	need_file /usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf fonts-dejavu-core
	browser || missing="$missing chromium"
	if [ "$purpose" = tests ]; then
		need shellcheck shellcheck
		need Xvfb xvfb
		need setsid util-linux
		need mount mount
		need hostname hostname
		need ip iproute2
		need xprop x11-utils
		need scrot scrot
	fi
}

in_apt() {
	apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'
}

install() {
	have apt-get || fail "this system has no apt. Install what matches these Debian packages, then run it again:$missing"
	if [ "$(id -u)" -ne 0 ]; then
		fail "missing:$missing. Ask root for them, then run it again: sudo $0 $purpose"
	fi
	say "installing through apt:$missing"
	apt-get update -qq
	case " $missing " in
	*" chromium "*)
		# Ubuntu's package of that name is a snap, which needs snapd and cannot be installed everywhere.
		in_apt chromium || fail "apt knows no chromium here: install Chromium or Chrome yourself, then run it again (CHROMIUM_BIN=/path/to/it when it is not on PATH)"
		;;
	esac
	# shellcheck disable=SC2086 # a list of package names
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
	list_missing
	[ -z "$missing" ] || fail "apt installed everything, and still there is no:$missing"
}

# rust_ok: cargo's rustc is new enough
rust_ok() {
	have cargo && have rustc || return 1
	version=$(rustc --version 2>/dev/null | cut -d' ' -f2)
	[ "$(printf '%s\n%s\n' "$rust_wanted" "$version" | sort -V | head -n1)" = "$rust_wanted" ]
}

rust() {
	PATH=$PATH:$HOME/.cargo/bin
	if rust_ok; then
		return
	fi
	if ! have rustup && [ "$(id -u)" -eq 0 ] && in_apt rustup; then
		say "installing rustup through apt"
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq rustup >/dev/null
	fi
	if have rustup; then
		say "fetching the stable Rust toolchain with rustup"
		rustup toolchain install stable --profile minimal --component rustfmt --component clippy >/dev/null
		# Whoever chose another default that is too old keeps it; this folder alone gets the new one.
		rust_ok || rustup override set stable >/dev/null
	fi
	rust_ok || fail "Rust $rust_wanted or newer is needed (the rustc that Debian packages is older). Get it with: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh    then open a new shell and run this again"
}

rust_tools() {
	if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
		have rustup || fail "cargo has no fmt or no clippy: install the rustfmt and clippy that belong to your Rust"
		say "adding rustfmt and clippy with rustup"
		rustup component add rustfmt clippy >/dev/null
	fi
}

case $purpose in
session | tests) ;;
*) fail "usage: $0 [session|tests]" ;;
esac

list_missing
if [ -n "$missing" ]; then
	install
fi
rust
if [ "$purpose" = tests ]; then
	rust_tools
fi
say "everything is here ($purpose)"
