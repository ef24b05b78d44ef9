#!/bin/sh
# Prepares a Debian or Ubuntu machine: `setup.sh session` for the desktop session, `setup.sh tests` (the default) for the
# tests as well. As root it installs missing packages with apt; as another user it prints what root has to install.
# It reports everything that cannot be installed before it changes anything. If nothing is missing, it changes nothing.
set -eu

here=$(dirname "$0")
purpose=${1:-tests}
rust_wanted=1.95
missing=
wrong=

say() {
	printf 'setup: %s\n' "$*"
}

fail() {
	printf 'setup: %s\n' "$*" >&2
	exit 1
}

# add_wrong SENTENCE: adds a problem that only the user can fix
add_wrong() {
	wrong="$wrong
  - $1"
}

have() {
	command -v "$1" >/dev/null 2>&1
}

root() {
	[ "$(id -u)" -eq 0 ]
}

# Under sudo, the build and the tests later run as the calling user, so check that user's Rust, not root's.
person=$(id -un)
if root && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
	person=$SUDO_USER
fi

# as_person COMMAND…: runs COMMAND with that user's home, and with rustup's cargo on PATH
as_person() {
	if [ "$person" = "$(id -un)" ]; then
		PATH=$PATH:$HOME/.cargo/bin "$@"
	else
		home=$(getent passwd "$person" | cut -d: -f6)
		runuser -u "$person" -- env HOME="$home" PATH="$PATH:$home/.cargo/bin" "$@"
	fi
}

# as_person_has COMMAND
as_person_has() {
	# shellcheck disable=SC2016 # for the inner shell
	as_person sh -c 'command -v "$1" >/dev/null 2>&1' sh "$1"
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
		need nvim neovim
	fi
}

# rust_ok: succeeds if the user's cargo and rustc are new enough
rust_ok() {
	as_person_has cargo && as_person_has rustc || return 1
	version=$(as_person rustc --version 2>/dev/null | cut -d' ' -f2)
	[ -n "$version" ] && [ "$(printf '%s\n%s\n' "$rust_wanted" "$version" | sort -V | head -n1)" = "$rust_wanted" ]
}

lints_ok() {
	[ "$purpose" = session ] || { as_person cargo fmt --version && as_person cargo clippy --version; } >/dev/null 2>&1
}

# in_apt PACKAGE: succeeds if apt can install it
in_apt() {
	apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]'
}

# apt_lacks_rustup: succeeds on a release that is known to have no rustup, so that nobody has to wait for apt to say so
apt_lacks_rustup() {
	# shellcheck source=/dev/null
	release=$(. /etc/os-release 2>/dev/null && echo "$ID $VERSION_ID")
	case $release in
	"debian 10" | "debian 11" | "debian 12" | "ubuntu 18.04" | "ubuntu 20.04" | "ubuntu 22.04") return 0 ;;
	esac
	return 1
}

# refresh_apt: updates apt's lists, once; a new machine has none
refresh_apt() {
	if root && [ -z "${refreshed:-}" ]; then
		say "asking apt what it has"
		"$here/apt.sh" update
		refreshed=yes
	fi
}

# fail_if_wrong: reports the problems found so far, if there are any
fail_if_wrong() {
	[ -z "$wrong" ] || fail "nothing was changed, because this is needed first:$wrong
  Then run this again."
}

no_rust() {
	add_wrong "$person has no Rust $rust_wanted or newer, and apt has no rustup (Debian 12's own rustc is too old). Get it with
      curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
    (curl is the Debian package curl)"
}

# Finds every problem before the first package is installed: first what needs no apt, at once.
find_obstacles() {
	rust_missing=
	rust_ok || as_person_has rustup || rust_missing=yes
	if [ -n "$missing" ]; then
		say "missing:$missing"
		if ! have apt-get; then
			add_wrong "this system has no apt: install what matches these Debian packages:$missing"
		elif ! root; then
			add_wrong "these packages are missing:$missing. Ask root to run: sudo $0 $purpose"
		fi
	fi
	if rust_ok && ! lints_ok && ! as_person_has rustup; then
		add_wrong "$person's cargo has no fmt or no clippy: install the rustfmt and clippy that belong to it"
	fi
	if [ -n "$rust_missing" ] && { ! root || ! have apt-get || apt_lacks_rustup; }; then
		no_rust
	fi
	fail_if_wrong
	case "$(id -u) $missing " in
	"0 "*" chromium "*)
		# Ubuntu's package of that name is a snap, which needs snapd and cannot be installed everywhere.
		if have apt-get; then
			refresh_apt
			in_apt chromium || add_wrong "apt has no chromium here: install Chromium or Chrome yourself, and set CHROMIUM_BIN=/path/to/it when it is not on PATH"
		fi
		;;
	esac
	if [ -n "$rust_missing" ]; then
		if refresh_apt && in_apt rustup; then
			rustup_from_apt=yes
		else
			no_rust
		fi
	fi
	fail_if_wrong
}

install_packages() {
	say "installing through apt:$missing"
	refresh_apt
	# shellcheck disable=SC2086 # a list of package names
	"$here/apt.sh" install -y --no-install-recommends $missing
	list_missing
	[ -z "$missing" ] || fail "apt installed everything, but these are still missing:$missing"
}

install_rust() {
	if [ -n "${rustup_from_apt:-}" ]; then
		say "installing rustup through apt"
		"$here/apt.sh" install -y --no-install-recommends rustup
	fi
	say "installing the stable Rust toolchain with rustup, for $person"
	as_person rustup toolchain install stable --profile minimal --component rustfmt --component clippy >/dev/null
	# An older default that somebody has chosen stays; this folder alone gets the new one.
	rust_ok || as_person rustup override set stable >/dev/null
	rust_ok || fail "rustup's stable toolchain is older than Rust $rust_wanted: run rustup update"
}

case $purpose in
session | tests) ;;
*) fail "usage: $0 [session|tests]" ;;
esac

list_missing
find_obstacles
[ -z "$missing" ] || install_packages
rust_ok || install_rust
if ! lints_ok; then
	say "adding rustfmt and clippy with rustup"
	as_person rustup component add rustfmt clippy >/dev/null
fi
say "everything is here ($purpose)"
