#!/bin/sh
# Builds the image under the name it is published as, ghcr.io/kbve/kasm-void:VERSION; further arguments go to
# `docker build`. IMAGE=NAME builds it under another name.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' image/version.toml)
exec docker build --file image/Dockerfile --build-arg "VERSION=$version" \
	--tag "${IMAGE:-ghcr.io/kbve/kasm-void:$version}" "$@" .
