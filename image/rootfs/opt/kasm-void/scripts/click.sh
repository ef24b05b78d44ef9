#!/bin/bash
# click.sh NAME WORDS…: runs `kasm-void WORDS…` for the icon NAME. Shows at once that it is running and, if it fails,
# shows why.
set -u
trap '' PIPE

name=$1
shift

exec 3> >(exec zenity --progress --pulsate --auto-close --no-cancel --width=320 --title="$name" --text="One moment…" >/dev/null 2>&1)
said=$(kasm-void "$@" 2>&1)
code=$?
echo 100 >&3
exec 3>&-

if [ "$code" -ne 0 ]; then
	zenity --error --no-markup --width=420 --title="$name" --text="$said" >/dev/null 2>&1
fi
exit "$code"
