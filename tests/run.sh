#!/bin/sh
# Runs all tests from a fresh clone. Installs what they need (as root), then checks formatting, lints, the purity of the
# model and the shell scripts, and runs every test, including a real browser on a real display and the workspace image in a
# real container. If a step fails, the others still run. The summary lists what passed, failed or did not run, and the disk
# space used. Arguments go to the test runner: `tests/run.sh logs::` runs the tests with `logs::` in their names.
set -eu

cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
began=$(date +%s)
report=
outcome=passed

# note WORD STEP [WHY]
note() {
	report="$report
   $(printf '%-8s' "$1") $2${3:+ ($3)}"
}

# step NAME COMMAND…: runs COMMAND, even if an earlier step failed. Exit code 77 means that something it needs cannot be had.
step() {
	name=$1
	shift
	printf '\n== %s\n   %s\n' "$name" "$*"
	step_began=$(date +%s)
	code=0
	"$@" || code=$?
	case $code in
	0) word=passed ;;
	77) word="NOT RUN" ;;
	*)
		word=FAILED
		outcome=FAILED
		;;
	esac
	note "$word" "$name" "$(($(date +%s) - step_began)) s"
}

# Tests that cannot run on this machine add a line to this file.
KASM_VOID_NOT_RUN=$PWD/$target/not-run.txt
case $target in /*) KASM_VOID_NOT_RUN=$target/not-run.txt ;; esac
export KASM_VOID_NOT_RUN

gather_not_run() {
	[ ! -e "$KASM_VOID_NOT_RUN" ] || while read -r line; do note "NOT RUN" "$line"; done <"$KASM_VOID_NOT_RUN"
}

# not_run NAME WHY
not_run() {
	printf '\n== %s: NOT RUN\n   %s\n' "$1" "$2"
	note "NOT RUN" "$1" "$2"
}

megabytes() {
	du -sm "$target" 2>/dev/null | cut -f1
}

summary() {
	code=$?
	[ "$code" -eq 0 ] || outcome="FAILED (ended before the last step)"
	used=$(megabytes)
	cat <<END

== summary$report
   everything took $((($(date +%s) - began) / 60)) min; $target holds ${used:-0} MB, ${before:-0} MB of it from before (cargo clean removes it)
   result: $outcome
END
}

before=$(megabytes)
rm -f "$KASM_VOID_NOT_RUN"
trap summary EXIT

tests/setup.sh tests
PATH=$PATH:$HOME/.cargo/bin # where rustup puts cargo, before the next login shell finds it
export PATH

step "formatting" cargo fmt --check
# With the gateway, so that everything is built once. The product's binaries without it are only checked.
features="--features gateway"
# shellcheck disable=SC2086 # two words
step "lints" cargo clippy --locked $features --all-targets -- -D warnings
# shellcheck disable=SC2086
step "documentation of the code" env RUSTDOCFLAGS="-D warnings" cargo doc --locked $features --no-deps --document-private-items --lib
step "the workspace's binary builds without the gateway" cargo clippy --locked -- -D warnings
step "the model builds without anything that touches the machine" cargo check --locked --no-default-features --lib
step "shell scripts" shellcheck -x tests/setup.sh tests/apt.sh tests/run.sh tests/deny.sh tests/book.sh tests/packages.sh image/session.sh image/record.sh packaging/release.sh .ci/run
step "licences and sources of all crates" tests/deny.sh
step "the book" tests/book.sh
if cargo nextest --version >/dev/null 2>&1; then
	# shellcheck disable=SC2086
	step "tests" cargo nextest run --locked $features --no-fail-fast "$@"
else
	# shellcheck disable=SC2086
	step "tests" cargo test --locked $features --no-fail-fast "$@"
fi

gather_not_run

step "the packages" env KASM_VOID_BINARY="$target/debug/kasm-void" tests/packages.sh

# The image needs a running docker, or root to set up a private one. The tests' own binary will do, because the stand-in for
# KASM's image has this system's C library.
if tests/image/engine.sh target/image/docker docker info >"$target/engine.log" 2>&1; then
	step "the workspace image" env KASM_VOID_BINARY="$target/debug/kasm-void" image/test.sh
else
	step "the files of the workspace image" image/test.sh files
	not_run "the workspace image in a container" "it needs a docker that answers, or root to make a private one: $(tail -n 1 "$target/engine.log")"
fi

[ "$outcome" = passed ] || exit 1
