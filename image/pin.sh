#!/bin/sh
# After publishing: pins the image in a Deployment to image/version.toml, or to another version.
#
#   image/pin.sh [FILE [VERSION[@DIGEST]]]     FILE: image/kubernetes/base/deployment.yaml, or the cluster's own
set -eu
here=$(cd "$(dirname "$0")" && pwd)
file=${1:-$here/kubernetes/base/deployment.yaml}
version=${2:-$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/version.toml")}

fail() {
	echo "pin: $*" >&2
	exit 1
}

[ -n "$version" ] || fail "no version in image/version.toml"
[ -f "$file" ] || fail "there is no file $file"
grep -q 'image: ghcr.io/kbve/kasm-void[:@]' "$file" || fail "$file names no image ghcr.io/kbve/kasm-void"
sed "s|\(image: ghcr.io/kbve/kasm-void\)[:@].*|\1:$version|" "$file" >"$file.new"
cat "$file.new" >"$file" # keeps the file's owner and mode
rm "$file.new"
echo "pinned $file to $version"
