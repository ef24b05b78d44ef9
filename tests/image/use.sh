#!/bin/bash
# use.sh [MINUTES]: uses one workspace for MINUTES (default 60), as people and accidents do, and checks after each step that
# it is whole again. The steps are random; SEED=NUMBER repeats them. Then the container is stopped, started, killed, started,
# replaced by a new one on the same home, and joined by a second one there. Every ten minutes it prints what the session takes:
# memory, descriptors, bytes of logs. Screenshots are saved in target/image. It needs the image of image/test.sh:
#
#   tests/image/engine.sh target/image/docker tests/image/use.sh 60
set -uo pipefail

cd "$(dirname "$0")/../.." || exit
minutes=${1:-60}
seed=${SEED:-$RANDOM}
work=$PWD/target/image
export IMAGE=kasm-void:test
# shellcheck source=tests/image/helpers.sh
. tests/image/helpers.sh
RANDOM=$seed

# ---- what is done

close_the_browser() { at use sh -c 'wmctrl -x -c cloakbrowser || wmctrl -x -c chromium'; }
close_discord() { at use wmctrl -x -c discord; }
kill_the_browser() { at use kill -9 "$(pid use cloakbrowser)"; }
end_the_browser() { at use kill "$(pid use cloakbrowser)"; }
freeze_the_browser() { at use kill -STOP "$(pid use cloakbrowser)"; }
kill_a_tab() { at use sh -c 'kill -9 "$(pgrep -f -- --type=renderer | shuf -n 1)"'; }
kill_discord() { at use kill -9 "$(pid use discord)"; }
kill_the_launcher() { at use kill -9 "$(pid use nav-shim)"; }
kill_the_supervisor() { at use sh -c 'kill -9 "$(pgrep -n -f "^kasm-void run")"'; }
kill_the_guard() { at use sh -c 'kill -9 "$(pgrep -o -f "^kasm-void run")"'; }
reload_the_browser() { at use kasm-void "do" cloakbrowser reload; }
reset_discord() { at use kasm-void "do" discord reset; }
click_the_browser() { at use kasm-void show cloakbrowser; }
click_discord() { at use kasm-void show discord; }
stop_and_start_discord() { at use sh -c 'kasm-void stop discord && kasm-void start discord'; }
open_a_page() { has "browser" at use kasm-void open http://93.184.215.14/; } # there is no network: the browser says so
open_a_private_page() { has "policy" at use kasm-void open http://10.0.0.1/; }
look_at_another_desktop() { at use wmctrl -s 1 && at use kasm-void open http://93.184.215.14/ && at use wmctrl -s 0; }
hide_all_windows() { at use wmctrl -k on && at use wmctrl -k off; }
edit_an_app() { own "App(command: \"/bin/sleep\", args: [\"$((RANDOM + 1000))\"])"; }
break_an_app() { own "App(command: " && edit_an_app; }
remove_an_app() { at use rm -f .config/kasm-void/manifests/own.ron; }

# own TEXT: writes a person's own manifest.
own() {
	at --env "TEXT=$1" use sh -c 'printf %s "$TEXT" >.config/kasm-void/manifests/own.ron'
}

# ---- what must hold after each step

mains() {
	at use sh -c "ps -eo args= | grep -v -e --type= -e crashpad | grep -c '^$1'"
}

whole() {
	if both_run use && [ "$(state use nav-shim)" = Running ] && at use kasm-void health --ready >/dev/null &&
		at use curl --silent --fail --output /dev/null http://127.0.0.1:9222/json/version &&
		[ "$(mains /opt/cloakbrowser/)" = 1 ] && [ "$(mains /usr/share/discord/)" = 1 ] &&
		[ "$(at use sh -c 'ps -eo stat= | grep -c ^Z')" = 0 ] &&
		[ "$(at use sh -c 'xlsclients | wc -l')" -lt 25 ]; then
		return
	fi
	at use sh -c 'kasm-void status; ps -eo pid,ppid,stat,args | cut -c1-150; xlsclients | wc -l'
	return 1
}

# Three minutes: a frozen browser is only replaced after 30 seconds, and waits grow to 30 seconds.
whole_again() {
	local said end=$((SECONDS + 180))
	until said=$(whole 2>&1); do
		[ "$SECONDS" -lt "$end" ] || {
			echo "$said"
			return 1
		}
		sleep 1
	done
}

picture() {
	at use scrot --overwrite /tmp/screen.png && docker cp use:/tmp/screen.png "$work/use-$1.png" >/dev/null
}

boot() {
	up use --volume use:/home/kasm-user --cap-drop ALL
}

# ours: a line "ROLE KIB DESCRIPTORS" for each lasting process of kasm-void. As root with all rights, because these processes
# show their descriptors to nobody else.
ours() {
	docker exec --privileged --user 0 use bash -c '
		for pid in $(pgrep -f "^([^ ]*/)?kasm-void (init|run|nav-shim|proxy)( |$)"); do
			[ "$(cat /proc/$pid/comm)" = kasm-supervisor ] && role=supervisor || role=$(tr "\\0" " " </proc/$pid/cmdline | cut -d" " -f2)
			echo "${role/run/guard} $(awk "/VmRSS/ { print \$2 }" /proc/$pid/status) $(ls /proc/$pid/fd | wc -l)"
		done'
}

# sum COLUMN: of the numbers in this column of what `ours` printed.
sum() {
	awk -v column="$1" '{ sum += $column } END { print sum + 0 }'
}

measured() {
	local now
	now=$(ours)
	echo "       after $(((SECONDS - began) / 60)) minutes: $(sum 2 <<<"$now") KiB in $(wc -l <<<"$now") processes, $(sum 3 <<<"$now") descriptors" \
		"($(sort <<<"$now" | awk '{ printf "%s%s %s/%s", (NR > 1 ? ", " : ""), $1, $2, $3 }'))"
	echo "       stdout $(docker logs use 2>/dev/null | wc -c) bytes, logs of apps $(at use sh -c 'cat /tmp/*.log* | wc -c') bytes," \
		"state $(at use du -sk /tmp/kasm-void | cut -f1) KiB, home $(at use du -sm /home/kasm-user | cut -f1) MiB"
}

no_more_than() {
	[ "$2" -le "$1" ] || {
		echo "at most $1, it is $2"
		return 1
	}
}

# ---- the hour

docker rm --force use beside >/dev/null 2>&1
docker volume rm use >/dev/null 2>&1
docker volume create use >/dev/null
step "a workspace is used for $minutes minutes, seed $seed"
boot
check "it boots" whole_again
began=$SECONDS
measured
first=$(ours)
picture first
mapfile -t steps < <(sed -n '/^# ---- what is done/,/^# own TEXT/s/^\([a-z_]*\)() .*/\1/p' tests/image/use.sh)
declare -A done_times
tens=0
end=$((SECONDS + minutes * 60))
while [ "$SECONDS" -lt "$end" ] && [ "${#failures[@]}" -eq 0 ]; do
	action=${steps[RANDOM % ${#steps[@]}]}
	done_times[$action]=$((${done_times[$action]:-0} + 1))
	said=$("$action" 2>&1) # some fail in a workspace that is just recovering
	check "${action//_/ }: whole again" whole_again
	[ "${#failures[@]}" -eq 0 ] || echo "$said"
	sleep $((RANDOM % 5))
	if [ $(((SECONDS - began) / 600)) -gt "$tens" ]; then
		tens=$(((SECONDS - began) / 600))
		measured
	fi
done
for action in "${steps[@]}"; do
	echo "       ${done_times[$action]:-0} times: ${action//_/ }"
done
step "afterwards"
measured
docker logs use 2>/dev/null | grep -o '"event":"[a-z._]*"' | sort | uniq -c | sort -rn | sed 's/^/       /'
last=$(ours)
check "its memory has grown by no more than 16 MiB" no_more_than $(($(sum 2 <<<"$first") + 16384)) "$(sum 2 <<<"$last")"
check "and no more than 16 descriptors more" no_more_than $(($(sum 3 <<<"$first") + 16)) "$(sum 3 <<<"$last")"
# KASM reports a service that it does not know when the guard, which it started, is replaced.
check "the log is JSON lines" is "" sh -c "docker logs use 2>/dev/null | grep -v -e '^{\"ts\"' -e '^Unknown Service' | head -n 3"
check "no secret is in it" is "" sh -c "docker logs use 2>&1 | grep -e the-token -e the-vnc-password"
check "the supervisor is small" at use sh -c '[ "$(awk "/VmRSS/ { print \$2 }" /proc/"$(pgrep -n -f "^kasm-void run")"/status)" -lt 65536 ]'
picture last
docker stop --time 25 use >/dev/null
check "a stop ends it by itself" is 0 docker inspect --format '{{.State.ExitCode}}' use
docker start use >/dev/null
check "started again" whole_again
docker kill use >/dev/null
docker start use >/dev/null
check "killed, and started again" whole_again
docker kill use >/dev/null
down use
docker volume inspect use >/dev/null 2>&1 || docker volume create use >/dev/null
boot
check "a new container on its home" whole_again
picture new
up beside --volume use:/home/kasm-user --cap-drop ALL
check "a second one beside it leaves its browser alone" eventually is Backoff state beside cloakbrowser
docker kill use >/dev/null
check "and takes over when it is killed" eventually both_run beside
docker start use >/dev/null
docker stop --time 25 beside >/dev/null
check "a stop of the second ends it by itself" is 0 docker inspect --format '{{.State.ExitCode}}' beside
down beside
check "and the first takes over again" whole_again
docker stop --time 25 use >/dev/null
docker rm --force use >/dev/null
docker volume rm use >/dev/null
told
