#!/bin/sh
# Pins the image in a Deployment to the published version in image/version.toml, or to the version you name.
#
#   image/pin.sh [FILE [VERSION[@DIGEST]]]     FILE defaults to image/kubernetes/base/deployment.yaml
set -eu
here=$(cd "$(dirname "$0")" && pwd)
file=${1:-$here/kubernetes/base/deployment.yaml}
version=${2:-$(sed -n 's/^published = "\(.*\)"$/\1/p' "$here/version.toml")}

fail() {
	echo "pin: $*" >&2
	exit 1
}

[ -n "$version" ] || fail "no published version in image/version.toml"
[ -f "$file" ] || fail "there is no file $file"
grep -q 'image: ghcr.io/kbve/kasm-void[:@]' "$file" || fail "$file names no image ghcr.io/kbve/kasm-void"
pinned=$(sed "s|\(image: ghcr.io/kbve/kasm-void\)[:@].*|\1:$version|" "$file")
printf '%s\n' "$pinned" >"$file" # written in place, so that the file keeps its owner and mode
echo "pinned $file to $version"
