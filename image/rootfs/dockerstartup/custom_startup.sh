#!/bin/bash
# KASM's hook. Without arguments it runs the session: it becomes the supervisor, which never exits by itself. KASM also
# calls it with --go or --assign, through `docker exec` in a live session; then it passes the URL to the running browser.
set -u

options=$(getopt --options gau: --longoptions go,assign,url: --name custom_startup.sh -- "$@") || exit 2
eval set -- "$options"

forward=false url=
while [ "$1" != -- ]; do
	case $1 in
	-g | --go | -a | --assign) forward=true ;;
	-u | --url)
		url=$2
		shift
		;;
	esac
	shift
done

if [ "$forward" = false ]; then
	mkdir -p "$HOME/.config/kasm-void/manifests" || true # if the home is not writable, start the desktop anyway
	exec kasm-void run /usr/share/kasm-void/manifests /etc/kasm-void/manifests "$HOME/.config/kasm-void/manifests"
fi

url=${url:-${KASM_URL:-${LAUNCH_URL:-}}}
if [ -z "$url" ]; then
	echo "no URL was given (--url, KASM_URL, LAUNCH_URL): nothing to do"
	exit 0
fi
exec /opt/kasm-void/scripts/open.sh "$url"
