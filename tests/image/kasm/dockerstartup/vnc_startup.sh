#!/bin/bash
# A stand-in for KASM's script of this name, reduced to what its children can notice. It removes the passwords from
# the environment and starts the desktop and then custom_startup.sh in the background. A monitor checks every three
# seconds and restarts the window manager, but never custom_startup.sh, because its key never matches. On a signal,
# it signals its last background job once its current sleep is over, and exits.
set -e

unset VNC_PW VNC_VIEW_ONLY_PW
export DISPLAY=:1
export "$(dbus-launch | head -n 1)"

declare -A started

cleanup() {
	kill -s SIGTERM $!
	exit 0
}
trap cleanup SIGINT SIGTERM SIGQUIT SIGHUP ERR

start_vnc() {
	rm -rf /tmp/.X1-lock /tmp/.X11-unix/X1
	Xtigervnc :1 -geometry 1280x800 -depth 24 -SecurityTypes None -localhost -rfbport 5901 >/tmp/vnc.log 2>&1 &
	started[kasmvnc]=$!
	until xset q >/dev/null 2>&1; do sleep 0.1; done
}

start_desktop() {
	xfce4-session >/tmp/xfce.log 2>&1 &
	started[window_manager]=$!
}

start_vnc
start_desktop
/dockerstartup/custom_startup.sh &
started[custom_startup]=$!

sleep 3
while :; do
	for name in "${!started[@]}"; do
		if ! kill -0 "${started[$name]}" 2>/dev/null; then
			case $name in
			kasmvnc) exit 1 ;;
			window_manager) start_desktop ;;
			custom_script) /dockerstartup/custom_startup.sh & ;;
			*) echo "Unknown Service: $name" ;;
			esac
		fi
	done
	sleep 3
done
