#!/bin/sh
# All tests, from a fresh clone: installs what they need (as root), then formatting, lints, the purity of
# the model, shell scripts and every test, up to a real browser on a real display and the workspace image in a
# real container.
set -eu

cd "$(dirname "$0")/.."

step() {
	printf '\n== %s\n' "$1"
	shift
	printf '   %s\n' "$*"
	began=$(date +%s)
	"$@"
	printf '   took %s s\n' "$(($(date +%s) - began))"
}

tests/setup.sh tests
PATH=$PATH:$HOME/.cargo/bin # where rustup puts cargo, before the next login shell finds it
export PATH

step "formatting" cargo fmt --check
step "lints" cargo clippy --locked --all-targets -- -D warnings
step "the model builds without anything that touches the machine" cargo check --locked --no-default-features --lib
step "shell scripts" shellcheck -x tests/setup.sh tests/run.sh image/session.sh .ci/run
if cargo nextest --version >/dev/null 2>&1; then
	step "tests" cargo nextest run --locked --no-fail-fast "$@"
else
	step "tests" cargo test --locked --no-fail-fast "$@"
fi

# Needs a docker that answers, or root to make a private engine. The binary of the tests is good enough: the
# stand-in for KASM's image has this system's own C library.
if tests/image/engine.sh target/image/docker docker info >target/engine.log 2>&1; then
	step "the workspace image" env KASM_VOID_BINARY="${CARGO_TARGET_DIR:-target}/debug/kasm-void" image/test.sh
else
	step "the files of the workspace image" image/test.sh files
	printf '\n== the workspace image: NOT RUN\n'
	sed 's/^/   /' target/engine.log | tail -n 5
	printf '   its tests need a docker that answers, or root to make a private one (image/test.sh)\n'
fi
