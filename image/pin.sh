#!/bin/sh
# After publishing: pins the Deployment's image to image/version.toml.
set -eu
cd "$(dirname "$0")"
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' version.toml)
[ -n "$version" ] || {
	echo "pin: no version in image/version.toml" >&2
	exit 1
}
sed -i "s|\(image: ghcr.io/kbve/kasm-void\):.*|\1:$version|" kubernetes/base/deployment.yaml
echo "pinned kubernetes/base/deployment.yaml to $version"
