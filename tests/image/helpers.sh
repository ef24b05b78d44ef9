#!/bin/bash
# helpers.sh: checks, and containers of the image IMAGE. Sourced by stories.sh and use.sh, in the repository's root.

passed=0
failures=()

step() {
	printf '\n== %s\n' "$1"
}

# check WHAT COMMAND…: COMMAND must succeed.
check() {
	local what=$1 said
	shift
	if said=$("$@" 2>&1); then
		passed=$((passed + 1))
		echo "   ok  $what"
	else
		failures+=("$what")
		printf ' FAIL  %s\n       %s\n%s\n' "$what" "$*" "${said:0:2000}"
	fi
}

# eventually COMMAND…: COMMAND must succeed within a minute; otherwise prints its last output.
eventually() {
	local said end=$((SECONDS + 60))
	until said=$("$@" 2>&1); do
		if [ "$SECONDS" -ge "$end" ]; then
			echo "$said"
			return 1
		fi
		sleep 0.2
	done
}

not() {
	! "$@"
}

# is WANTED COMMAND…: COMMAND must print exactly WANTED.
is() {
	local wanted=$1 said
	shift
	said=$("$@" 2>&1)
	[ "$said" = "$wanted" ] || {
		printf 'wanted: %s\nheard:  %s\n' "$wanted" "$said"
		return 1
	}
}

# has WORDS COMMAND…: the output of COMMAND must contain WORDS, whatever its exit code.
has() {
	local words=$1 said
	shift
	said=$("$@" 2>&1)
	case $said in
	*"$words"*) ;;
	*)
		printf 'wanted: %s\nheard:  %s\n' "$words" "$said"
		return 1
		;;
	esac
}

# ends CODE COMMAND…: COMMAND must exit with CODE.
ends() {
	local wanted=$1 said
	shift
	said=$("$@" 2>&1)
	local code=$?
	[ "$code" -eq "$wanted" ] || {
		echo "wanted code $wanted, it was $code: $said"
		return 1
	}
}

configured() {
	docker image inspect --format "$1" "$IMAGE"
}

# ---- containers

# up NAME OPTIONS…: starts a workspace called NAME, with NAME as its host name.
up() {
	local name=$1
	shift
	docker run --detach --name "$name" --hostname "$name" --network none --cap-drop ALL --security-opt no-new-privileges \
		--shm-size 512m --env VNC_PW=the-vnc-password --env URL_LAUNCHER_TOKEN=the-token \
		--env 'START_URL=data:text/html,<title>Start</title><h1>Supervised</h1>' \
		--env "APP_ARGS=--no-sandbox --disable-gpu --disable-dev-shm-usage --class=discord --user-agent='An agent with spaces' --app=data:text/html,<title>Discord</title>Discord" \
		"$@" "$IMAGE" >/dev/null
}

# at NAME COMMAND…: runs COMMAND in the container, like KASM's own `docker exec`.
at() {
	docker exec --env DISPLAY=:1 "$@"
}

ready() {
	eventually at "$1" kasm-void health --ready
}

down() {
	docker rm --force --volumes "$@" >/dev/null
}

# pid NAME APP
pid() {
	local said
	said=$(at "$1" kasm-void status "$2" --json) || return 1
	said=${said#*\"pid\":}
	echo "${said%%,*}"
}

state() {
	local said
	said=$(at "$1" kasm-void status "$2" --json) || return 1
	said=${said#*\"state\":\"}
	echo "${said%%\"*}"
}

other_pid() {
	[ "$(state "$1" "$2")" = Running ] && [ "$(pid "$1" "$2")" != "$3" ]
}

# spawned NAME APP: the number of starts in the log, as a dashboard counts them.
spawned() {
	docker logs "$1" 2>/dev/null | grep -c "\"msg\":\"launching $2\""
}

windows() {
	at "$1" wmctrl -lx | grep -ci "$2"
}

more_windows() {
	[ "$(windows "$1" "$2")" -gt "$3" ]
}

environment_of() {
	at "$1" sh -c "tr '\\0' '\\n' </proc/$(pid "$1" "$2")/environ"
}

# on_the_bus NAME SCRIPT: runs SCRIPT in the container, with the desktop's session bus.
on_the_bus() {
	local bus
	bus=$(at "$1" sh -c "tr '\\0' '\\n' </proc/\$(pgrep -x xfce4-session)/environ | grep ^DBUS_SESSION_BUS_ADDRESS=") &&
		at --env "$bus" "$1" sh -c "$2"
}

# click NAME ICON: does what XFCE does on a double click.
click() {
	on_the_bus "$1" "exec gio launch Desktop/$2.desktop"
}

# double_click NAME COMMAND…: double-clicks the fourth icon of the first column (Terminal, after XFCE's own three). Repeats it
# until COMMAND succeeds, because nothing reports when the desktop has its icons.
double_click() {
	local name=$1 look
	shift
	for _ in {1..10}; do
		at "$name" xdotool mousemove 70 380 click --repeat 2 --delay 150 1
		for look in {1..20}; do
			"$@" >/dev/null 2>&1 && return
			sleep 0.2
		done
	done
	echo "$look looks after each of 10 double clicks: $*"
	return 1
}

window_named() {
	at "$1" xdotool search --name "$2"
}

fresh_container_sees() {
	docker run --rm --network none --volume "$1:/home/kasm-user" --entrypoint sh "$IMAGE" -c "$2"
}

# both_run NAME: both apps are up.
both_run() {
	[ "$(state "$1" cloakbrowser)" = Running ] && [ "$(state "$1" discord)" = Running ]
}

# told: prints the result, and fails if a check has failed.
told() {
	printf '\n%s passed, %s failed, %s s\n' "$passed" "${#failures[@]}" "$SECONDS"
	[ "${#failures[@]}" -eq 0 ] || {
		printf ' - %s\n' "${failures[@]}"
		return 1
	}
}
