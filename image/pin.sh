#!/bin/sh
# Pins the images in a Deployment.
#
#   image/pin.sh [FILE [VERSION[@DIGEST]]]     our own, to the published version in image/version.toml or the one you name
#   image/pin.sh --others [FILE]               everybody else's, to the digests that their registries have for them now.
#                                              Needs docker with buildx, and their registries
#
# FILE defaults to image/kubernetes/base/deployment.yaml.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

fail() {
	echo "pin: $*" >&2
	exit 1
}

# changed FILE SCRIPT: edits FILE with sed. It is written in place, so that it keeps its owner and mode.
changed() {
	text=$(sed "$2" "$1")
	printf '%s\n' "$text" >"$1"
}

others=
if [ "${1:-}" = --others ]; then
	others=1
	shift
fi
file=${1:-$here/kubernetes/base/deployment.yaml}
[ -f "$file" ] || fail "there is no file $file"

if [ -n "$others" ]; then
	sed -n 's/^ *image: *//p' "$file" | grep -v -e @sha256: -e '^ghcr.io/kbve/kasm-void[:@]' | sort -u | while read -r image; do
		digest=$(docker buildx imagetools inspect "$image" --format '{{.Manifest.Digest}}' </dev/null) || fail "no digest of $image: see above"
		case $digest in
		sha256:????????????????????????????????????????????????????????????????) ;;
		*) fail "the registry says \`$digest\` for $image, which is no digest" ;;
		esac
		changed "$file" "s|^\( *image: *\)$image\$|\1$image@$digest|"
		echo "pinned $image to $digest"
	done
	exit
fi

version=${2:-$(sed -n 's/^published = "\(.*\)"$/\1/p' "$here/version.toml")}
[ -n "$version" ] || fail "no published version in image/version.toml"
grep -q 'image: ghcr.io/kbve/kasm-void\(-gateway\)\{0,1\}[:@]' "$file" || fail "$file names no image ghcr.io/kbve/kasm-void"
changed "$file" "s|\(image: ghcr.io/kbve/kasm-void\(-gateway\)\{0,1\}\)[:@].*|\1:$version|"
echo "pinned $file to $version"
