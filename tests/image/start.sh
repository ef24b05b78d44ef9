#!/bin/bash
# start.sh [ROUNDS]: measures the time from a container's start to its browser, its launcher and Discord's window, with the
# supervisor and with the older bash loops, in turns. Uses the image that image/test.sh has built:
#
#   KASM_VOID_BINARY=RELEASE-BUILD image/test.sh && tests/image/engine.sh target/image/docker tests/image/start.sh
set -euo pipefail

cd "$(dirname "$0")/../.."
rounds=${1:-9}
image=kasm-void:test
loop=$PWD/tests/image/loop.sh
entry=(/dockerstartup/kasm_default_profile.sh /dockerstartup/vnc_startup.sh /dockerstartup/kasm_startup.sh --wait)

# up KIND
up() {
	local options=(--detach --name start --network none --cap-drop ALL --shm-size 512m --env URL_LAUNCHER_TOKEN=the-token
		--env 'START_URL=data:text/html,Start' --env "APP_ARGS=--no-sandbox --disable-gpu --disable-dev-shm-usage --class=discord --app=data:text/html,Discord")
	if [ "$1" = loop ]; then
		docker run "${options[@]}" --volume "$loop:/dockerstartup/custom_startup.sh:ro" --entrypoint "${entry[0]}" "$image" "${entry[@]:1}"
	else
		docker run "${options[@]}" "$image"
	fi >/dev/null
}

# since BEGAN COMMAND: prints the milliseconds until COMMAND succeeds in the container; one `docker exec` repeats it.
since() {
	local ended
	ended=$(docker exec --env DISPLAY=:1 start bash -c "
		for _ in {1..3000}; do if $2; then exec date +%s%N; fi; sleep 0.01; done; exit 1") || return
	echo $(((ended - $1) / 1000000))
}

# round KIND: prints a line "browser launcher discord all", in milliseconds.
round() {
	local began work
	work=$(mktemp -d)
	up "$1"
	began=$(date --date "$(docker inspect --format '{{.State.StartedAt}}' start)" +%s%N)
	since "$began" 'curl --silent --fail --output /dev/null http://127.0.0.1:9222/json/version' >"$work/browser" &
	since "$began" 'curl --silent --fail --output /dev/null http://127.0.0.1:9998/healthz' >"$work/launcher" &
	since "$began" 'wmctrl -lx 2>/dev/null | grep -qi discord' >"$work/discord" &
	wait
	docker rm --force start >/dev/null
	awk '{ print } $1 > last { last = $1 } END { print last }' "$work/browser" "$work/launcher" "$work/discord" | paste -sd' '
	rm -r "$work"
}

# column NUMBER FILE: prints the median, smallest and largest value.
column() {
	cut -d' ' -f"$1" "$2" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)], v[1], v[NR] }'
}

docker rm --force start >/dev/null 2>&1 || true
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
for ((i = 0; i < rounds; i++)); do
	for kind in loop supervisor; do
		round "$kind" | tee -a "$results/$kind" | sed "s/^/$kind: /"
	done
done

printf '\n%-24s %-26s %-26s %s\n' "ms, median (spread)" "bash loops" "kasm-void" "ratio (spread, by round)"
number=0
for what in "browser answers" "launcher answers" "Discord's window" "all three"; do
	number=$((number + 1))
	read -r loop_median loop_low loop_high <<<"$(column $number "$results/loop")"
	read -r our_median our_low our_high <<<"$(column $number "$results/supervisor")"
	paste -d' ' <(cut -d' ' -f$number "$results/loop") <(cut -d' ' -f$number "$results/supervisor") |
		awk '{ printf "%.2f\n", $2 / $1 }' >"$results/ratios"
	read -r _ low high <<<"$(column 1 "$results/ratios")"
	printf '%-24s %-26s %-26s %s\n' "$what" "$loop_median ($loop_low-$loop_high)" "$our_median ($our_low-$our_high)" \
		"$(awk "BEGIN { printf \"%.2f\", $our_median / $loop_median }") ($low-$high)"
done
