#!/bin/bash
# publish.sh: rehearses image/publish.sh against a registry of this machine, with the stand-in for KASM's image. By hand,
# after image/test.sh has made its parts:
#
#   tests/image/engine.sh target/image/docker tests/image/publish.sh
set -euo pipefail

cd "$(dirname "$0")/../.."
work=$PWD/target/image
made_of=$(cat "$work/base.made-of")
# shellcheck source=tests/image/registry.sh
. tests/image/registry.sh

export REPOSITORY=$registry_address/kasm-void
BUILD="--network host --build-arg BASE_IMAGE=kasm-stand-in --build-arg BASE_TAG=$made_of"
BUILD="$BUILD --build-arg CLOAK_SHA256=$(sha256sum "$work/archive/cloakbrowser.tar.gz" | cut -d' ' -f1)"
BUILD="$BUILD --build-context binary=$work/binary --build-context cloak-archive=$work/archive"
export BUILD
pinned=$(sha256sum image/version.toml image/kubernetes/base/deployment.yaml)

image/publish.sh "$dir/out" | tee "$dir/said"
grep -q '^not pinned by digest: ghcr.io/qdm12/gluetun' "$dir/said"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' image/version.toml)
[ "$(sha256sum image/version.toml image/kubernetes/base/deployment.yaml)" = "$pinned" ] || {
	echo "a rehearsal has pinned something" >&2
	exit 1
}
(cd "$dir/out" && sha256sum --check --quiet SHA256SUMS)
grep -q '"name": *"libc6"' "$dir/out/packages.cdx.json"
grep -q '"name": *"tokio"' "$dir/out/kasm-void.cdx.json"
curl --silent --fail --output /dev/null --header 'Accept: application/vnd.docker.distribution.manifest.v2+json' \
	"http://$registry_address/v2/kasm-void/manifests/$(cat "$dir/out/digest")"
if said=$(image/publish.sh "$dir/again" 2>&1); then
	echo "a version was published twice" >&2
	exit 1
fi
case $said in
*"exists already"*) ;;
*)
	echo "$said" >&2
	exit 1
	;;
esac
echo "rehearsed: $REPOSITORY:$version was built, tested, pushed and described, and a second time is refused"
