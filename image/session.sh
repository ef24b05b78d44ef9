#!/bin/sh
# Runs a supervised desktop from a fresh clone. Installs what is missing (as root), builds kasm-void, and supervises the
# manifests in ~/.config/kasm-void/manifests. If you have none yet, it copies manifests/desktop there; edit them as you like.
# Ctrl-C stops everything.
set -eu

cd "$(dirname "$0")/.."

tests/setup.sh session
PATH=$PATH:$HOME/.cargo/bin # rustup puts cargo there; the next login shell would find it
export PATH

# taken NUMBER: succeeds if another display uses NUMBER. Our own display does not count: after `kill -9` of the
# supervisor it may still run, and is adopted.
taken() {
	lock=/tmp/.X$1-lock
	if [ ! -e "$lock" ]; then
		[ -e "/tmp/.X11-unix/X$1" ]
		return
	fi
	owner=$(tr -d ' \n' <"$lock" 2>/dev/null) || return 0
	[ -d "/proc/$owner" ] || return 1
	! tr '\0' '\n' <"/proc/$owner/environ" 2>/dev/null | grep -q '^KASM_VOID_APP=display:'
}

free_display() {
	number=7
	while taken "$number"; do
		number=$((number + 1))
	done
	echo "$number"
}

# The display number decides the ports: display :7 uses VNC 5907, noVNC 6080 and CDP 9222; display :8 uses the next of each.
DISPLAY_NUMBER=${DISPLAY_NUMBER:-$(free_display)}
VNC_PORT=${VNC_PORT:-$((5900 + DISPLAY_NUMBER))}
NOVNC_PORT=${NOVNC_PORT:-$((6073 + DISPLAY_NUMBER))}
CDP_PORT=${CDP_PORT:-$((9215 + DISPLAY_NUMBER))}
if [ -z "${CHROMIUM_BIN:-}" ]; then
	for name in chromium chromium-browser google-chrome-stable google-chrome; do
		if CHROMIUM_BIN=$(command -v "$name"); then
			break
		fi
	done
fi
export DISPLAY_NUMBER VNC_PORT NOVNC_PORT CDP_PORT CHROMIUM_BIN

# A copy outside of the source tree, for people to edit. It is never overwritten.
manifests=${XDG_CONFIG_HOME:-$HOME/.config}/kasm-void/manifests
if [ ! -d "$manifests" ]; then
	mkdir -p "$(dirname "$manifests")"
	staged=$(mktemp -d "$manifests.XXXXXX")
	cp manifests/desktop/*.ron "$staged"
	mv -T "$staged" "$manifests"
fi

echo "session: building kasm-void"
cargo build --release --locked

bin=${CARGO_TARGET_DIR:-$PWD/target}/release
# So that the terminal on the desktop finds `kasm-void`.
PATH=$bin:$PATH
export PATH

cat <<EOF

  look      http://127.0.0.1:$NOVNC_PORT/vnc.html?autoconnect=true&resize=scale   (or any VNC viewer: 127.0.0.1:$VNC_PORT)
  ask       $bin/kasm-void status
  change    $manifests/*.ron   (edit, add, remove: the running apps follow)
  stop      Ctrl-C

EOF
exec "$bin/kasm-void" run "$manifests"
