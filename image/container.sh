#!/bin/sh
# Builds the image as ghcr.io/kbve/kasm-void:VERSION, the name it is published under. IMAGE=NAME sets another name.
# Arguments are passed on to `docker build`.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' image/version.toml)
exec docker build --file image/Dockerfile --build-arg "VERSION=$version" \
	--tag "${IMAGE:-ghcr.io/kbve/kasm-void:$version}" "$@" .
