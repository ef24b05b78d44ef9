#!/bin/bash
# open-url.sh: asks for an address and opens it in the shared browser.
set -u

name="Open URL in Browser"

complain() {
	zenity --error --no-markup --width=420 --title="$name" --text="$1" >/dev/null 2>&1
	exit 1
}

url=$(zenity --entry --width=480 --title="$name" --text="Address" --entry-text="https://" 2>/dev/null) || exit 0
case $url in
"" | https:// | http://) exit 0 ;;
http://* | https://*) ;;
*) complain "Only addresses that begin with http:// or https:// can be opened." ;;
esac

said=$(/opt/kasm-void/scripts/open.sh "$url" 2>&1) || complain "$said"
