#!/bin/sh
# After publishing: pins the image in a Deployment to the last published version of image/version.toml, or to another one.
#
#   image/pin.sh [FILE [VERSION[@DIGEST]]]     FILE: image/kubernetes/base/deployment.yaml, or your cluster's own
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
printf '%s\n' "$pinned" >"$file" # not by rename: the file keeps its owner and mode
echo "pinned $file to $version"
