#!/bin/sh
# A supervised desktop from a fresh clone: installs what is missing (as root), builds, and supervises the manifests in
# ~/.config/kasm-void/manifests, where it puts a copy of manifests/desktop when you have none yet. They are yours to
# change. Ctrl-C stops everything.
set -eu

cd "$(dirname "$0")/.."

tests/setup.sh session
PATH=$PATH:$HOME/.cargo/bin # where rustup puts cargo, before the next login shell finds it
export PATH

# taken NUMBER: somebody else's display has it. Ours may still be there after `kill -9` of the
# supervisor, to be taken over.
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

# One number decides all: display :7 is VNC 5907, noVNC 6080 and CDP 9222, display :8 the next of each.
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

# What people change is theirs: a copy outside of the source tree, which is never written over.
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
# The terminal on the desktop finds `kasm-void` too.
PATH=$bin:$PATH
export PATH

cat <<EOF

  look      http://127.0.0.1:$NOVNC_PORT/vnc.html?autoconnect=true&resize=scale   (or any VNC viewer: 127.0.0.1:$VNC_PORT)
  ask       $bin/kasm-void status
  change    $manifests/*.ron   (edit, add, remove: the running apps follow)
  stop      Ctrl-C

EOF
exec "$bin/kasm-void" run "$manifests"
