#!/bin/sh
# Builds the image as it is published, ghcr.io/kbve/kasm-void:VERSION; further arguments go to `docker build`.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' image/version.toml)
exec docker build --file image/Dockerfile --build-arg "VERSION=$version" --tag "ghcr.io/kbve/kasm-void:$version" "$@" .
