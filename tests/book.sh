#!/bin/sh
# Builds the documentation as a book (book.toml), with the mdbook on PATH. If there is none, compiles one into target/mdbook, which
# takes a minute. Exits with 77 if it cannot be had.
set -eu

cd "$(dirname "$0")/.."
tools=$PWD/target/mdbook
PATH=$PATH:$tools/bin
if ! command -v mdbook >/dev/null; then
	# Neither optimised nor with its server: it runs once.
	CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features --root "$tools" mdbook@0.4.52 ||
		{ echo "book: mdBook cannot be had here" >&2 && exit 77; }
fi
mdbook build
