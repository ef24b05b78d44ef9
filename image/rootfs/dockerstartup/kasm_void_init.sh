#!/bin/bash
# PID 1: runs upstream's entry point (the arguments) and, when the container is stopped, first lets the
# supervisor close every app.
set -u

"$@" &
upstream=$!

stop() {
	kasm-void drain --timeout 25s
	kill -s TERM "$upstream" 2>/dev/null
	stopped=true
}
stopped=false
trap stop TERM INT

# A signal ends the wait, not what is waited for.
while wait "$upstream"; status=$?; kill -0 "$upstream" 2>/dev/null; do :; done
# Upstream's has no code for an end that was asked for.
[ "$stopped" = true ] && status=0
exit "$status"
