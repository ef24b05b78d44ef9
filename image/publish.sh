#!/bin/bash
# Publishes the image: builds it, tests it, lists what is in it, pushes it, and pins the Deployment to it. Needs a
# docker that is logged in, and cargo and python3 for the bills of materials.
#
#   image/publish.sh [DIR]                       writes the record to DIR (default: target/publish)
#   REPOSITORY=HOST/NAME image/publish.sh        rehearsal: pushes to another registry and pins nothing
#   BUILD="ARGUMENTS" image/publish.sh           passes further arguments to `docker build`
#
# DIR then holds: `digest` (of the image), `packages.cdx.json` (the Debian packages in it), `kasm-void.cdx.json` (the
# crates in the binary), `SHA256SUMS` (of the binary and of these files).
set -euo pipefail

cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' image/version.toml)
home=ghcr.io/kbve/kasm-void
repository=${REPOSITORY:-$home}
image=$repository:$version
out=${1:-target/publish}

step() {
	printf '\n== %s\n' "$1"
}

fail() {
	echo "publish: $*" >&2
	exit 1
}

# Other people's images: a tag can be moved, a digest cannot. A rehearsal may lack their registries.
unpinned=$(sed -n 's/^ *image: *//p' image/kubernetes/base/deployment.yaml | grep -v -e @sha256: -e "^$home:" | sort -u || true)
if [ -n "$unpinned" ]; then
	printf '%s\n' "$unpinned" | sed 's/^/not pinned by digest: /'
	[ "$repository" != "$home" ] || fail "a release pins every image: run \`image/pin.sh --others\` and commit image/kubernetes/base/deployment.yaml"
fi

if docker buildx imagetools inspect "$image" >/dev/null 2>&1; then
	fail "$image exists already, and a published version never changes: raise \`version\` in image/version.toml (and in Cargo.toml and the Dockerfile)"
fi
rm -rf "$out"
mkdir -p "$out"

step "build $image"
# shellcheck disable=SC2086 # a list of arguments
IMAGE=$image image/container.sh ${BUILD:-}

step "test $image"
image/test.sh of "$image"

# Before the push: what breaks off here can be run again.
step "bill of materials"
container=$(docker create "$image")
trap 'docker rm "$container" >/dev/null' EXIT
docker cp "$container:/usr/local/bin/kasm-void" "$out/kasm-void" >/dev/null
mkdir -p "$out/root/var/lib" "$out/root/etc"
docker cp "$container:/var/lib/dpkg" "$out/root/var/lib/" >/dev/null
docker cp --follow-link "$container:/etc/os-release" "$out/root/etc/os-release" >/dev/null
tools=${PUBLISH_TOOLS:-target/publish-tools}
if [ ! -x "$tools/bin/debsbom" ]; then
	python3 -m venv "$tools"
	"$tools/bin/pip" install --quiet --disable-pip-version-check 'debsbom[cdx]==0.10.2'
fi
[ -x "$tools/bin/cargo-cyclonedx" ] || cargo install --quiet --locked --root "$tools" cargo-cyclonedx@0.5.9
"$tools/bin/debsbom" generate --root "$out/root" --sbom-type cdx --out "$out/packages" --distro-name kasm-void --distro-version "$version"
PATH=$PATH:$tools/bin cargo cyclonedx --quiet --format json --override-filename kasm-void.cdx
mv kasm-void.cdx.json "$out/"
rm -rf "$out/root"

step "push $image"
docker push "$image"
digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | sed -n "s|^$repository@||p" | head -n 1)
[ -n "$digest" ] || fail "docker does not say which digest it has pushed"
echo "$digest" >"$out/digest"
(cd "$out" && sha256sum kasm-void ./*.json digest | sed 's|\./||' >SHA256SUMS && cat SHA256SUMS)

if [ "$repository" != "$home" ]; then
	echo "pushed $image ($digest); a rehearsal pins nothing"
	exit
fi
step "pin"
sed -i "s/^published = .*/published = \"$version\"/" image/version.toml
image/pin.sh image/kubernetes/base/deployment.yaml "$version@$digest"
echo "commit image/version.toml and image/kubernetes/base/deployment.yaml"
