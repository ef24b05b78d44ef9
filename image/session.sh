#!/bin/sh
# Runs a supervised desktop from a fresh clone. See --help.
set -eu

usage() {
	cat <<'END'
Runs a supervised desktop from this clone: installs what is missing (as root; otherwise it names what root has to
install), builds kasm-void, and supervises the manifests in ~/.config/kasm-void/manifests. The first time, it writes a
desktop there for you to edit. Ctrl-C stops everything.

Usage: image/session.sh [OPTIONS]

Options:
  --display N    X display to use [default: the first free one, from :7]
  --port PORT    Port of the page that shows the desktop, on 127.0.0.1 [default: 6073 + N]
  --state DIR    State folder. A second session needs its own [default: kasm-void's]
  -h, --help     Print this help
END
}

fail() {
	printf 'session: %s\n' "$*" >&2
	exit 2
}

# number OPTION VALUE: fails unless VALUE is a number
number() {
	case $2 in
	'' | *[!0-9]*) fail "$1 takes a number, not \`$2\`: see --help" ;;
	esac
}

here=$PWD
while [ $# -gt 0 ]; do
	option=${1%%=*}
	case $1 in
	--*=*) value=${1#*=} ;;
	*) value=${2:-} ;;
	esac
	case $option in
	-h | --help)
		usage
		exit
		;;
	--display)
		number "$option" "$value"
		export DISPLAY_NUMBER="$value"
		;;
	--port)
		number "$option" "$value"
		export NOVNC_PORT="$value"
		;;
	--state)
		case $value in
		'') fail "--state takes a folder: see --help" ;;
		/*) export KASM_VOID_STATE="$value" ;;
		*) export KASM_VOID_STATE="$here/$value" ;;
		esac
		;;
	*) fail "there is no option \`$1\`: see --help" ;;
	esac
	case $1 in
	--*=*) shift ;;
	*) shift 2 ;;
	esac
done

cd "$(dirname "$0")/.."

echo "session: 1/3 checking what is installed"
tests/setup.sh session
PATH=$PATH:$HOME/.cargo/bin # rustup puts cargo there; the next login shell would find it
export PATH

bin=${CARGO_TARGET_DIR:-$PWD/target}/release
if [ -x "$bin/kasm-void" ]; then
	echo "session: 2/3 building kasm-void"
else
	echo "session: 2/3 building kasm-void (the first time, this takes a few minutes)"
fi
cargo build --release --locked

echo "session: 3/3 starting the desktop"
# So that you find `kasm-void` on the desktop.
PATH=$bin:$PATH
exec "$bin/kasm-void" run
