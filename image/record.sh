#!/bin/bash
# Records the first ten seconds of a new user as an animation: closes the browser, kills it, edits a file, adds an app.
# Needs what the session needs, and the Debian packages scrot, xdotool and webp.
#
#   image/record.sh [FILE]     writes FILE (default: docs/session.webp), with the kasm-void on PATH, else that in target/release
set -euo pipefail

cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-docs/session.webp}")
PATH=$PATH:$PWD/target/release
for program in kasm-void scrot xdotool img2webp; do
	command -v "$program" >/dev/null || { echo "record: $program is missing" >&2 && exit 1; }
done

work=$(mktemp -d)
mkdir "$work/frames" "$work/home"
# A home of its own, with a short prompt.
export HOME=$work/home KASM_VOID_STATE=$work/state PS1='$ ' SHELL=/bin/sh
unset XDG_CONFIG_HOME XDG_RUNTIME_DIR
kasm-void run >"$work/log" 2>&1 &
session=$!
camera=
cleanup() {
	[ -z "$camera" ] || kill "$camera" 2>/dev/null || true
	kill "$session" 2>/dev/null || true
	wait "$session" || true
	rm -rf "$work"
}
trap cleanup EXIT
until kasm-void health --ready >/dev/null 2>&1; do
	kill -0 "$session" || { cat "$work/log" >&2 && exit 1; }
	sleep 0.2
done
DISPLAY=:$(($(sed -n 's|.*http://127.0.0.1:\([0-9]*\).*|\1|p' "$work/log" | head -n 1) - 6073))
export DISPLAY
# shown: waits until the browser is up, painted, and has taken the focus
shown() {
	kasm-void wait chromium --for running >/dev/null
	sleep 3
}

shown

# Frames are named by their time in milliseconds.
(while scrot --overwrite "$work/frames/$(date +%s%3N).png"; do sleep 0.1; done) &
camera=$!

# typed TEXT: types into the terminal and presses Return
typed() {
	xdotool search --name '^Terminal$' windowactivate --sync
	xdotool type --delay 45 "$1"
	xdotool key Return
}

sleep 2
wmctrl -c 'Chromium' # as a click on the cross does
sleep 1
shown
typed 'kasm-void signal chromium KILL'
sleep 1
shown
typed "sed -i 's/\"9\"/\"11\"/' status.ron"
sleep 3
typed 'kasm-void new notes -- xterm -title Notes'
sleep 4
kill "$camera"
wait "$camera" || true
camera=

# lasts MILLISECONDS: how long a frame is shown; a busy machine must not make the film longer
lasts() {
	echo $(($1 < 900 ? $1 : 900))
}

# Equal frames in a row become one that is shown longer.
frames=()
last=
for frame in "$work"/frames/*.png; do
	at=$(basename "$frame" .png)
	if [ -n "$last" ] && cmp -s "$frame" "$last"; then
		continue
	fi
	[ -z "$last" ] || frames+=(-d "$(lasts $((at - $(basename "$last" .png))))" "$last")
	last=$frame
done
frames+=(-d 3000 "$last")
img2webp -loop 0 -lossless -m 4 -kmin 0 -kmax 1000 "${frames[@]}" -o "$out" >/dev/null
echo "record: $out, $(($(stat -c %s "$out") / 1024)) KiB"
