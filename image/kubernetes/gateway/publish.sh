#!/bin/bash
# Publishes the gateway's image: builds the static binary and the image, looks at it, pushes it, and pins the Deployment to it.
# Needs a docker that is logged in, and cargo.
#
#   image/kubernetes/gateway/publish.sh
#   BINARY=FILE image/kubernetes/gateway/publish.sh              packs this static binary instead of building one
#   REPOSITORY=HOST/NAME image/kubernetes/gateway/publish.sh     rehearsal: pushes to another registry and pins nothing
set -euo pipefail

cd "$(dirname "$0")/../../.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' image/version.toml)
home=ghcr.io/kbve/kasm-void-gateway
repository=${REPOSITORY:-$home}
image=$repository:$version
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() {
	printf '\n== %s\n' "$1"
}

fail() {
	echo "publish: $*" >&2
	exit 1
}

if docker buildx imagetools inspect "$image" >/dev/null 2>&1; then
	fail "$image exists already, and a published version never changes: raise \`version\` in image/version.toml (and in Cargo.toml and the Dockerfile)"
fi

step "build $image"
if [ -z "${BINARY:-}" ]; then
	target=$(rustc -vV | sed -n 's/^host: //p')
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --features gateway --target "$target"
	BINARY=${CARGO_TARGET_DIR:-target}/$target/release/kasm-void
fi
install -D -m 0755 "$BINARY" "$work/context/kasm-void"
docker build --file image/kubernetes/gateway/Dockerfile --label "org.opencontainers.image.version=$version" --tag "$image" "$work/context"

step "look at it"
# As the Deployment runs it: nobody's root, nothing to write to, no rights.
run() {
	docker run --rm --read-only --cap-drop ALL --security-opt no-new-privileges --network none "$@"
}
[ "$(run "$image" --version)" = "kasm-void $version" ] || fail "the binary is not version $version"
sed -n '/^  gateway.ron: |$/,$s/^    //p' image/kubernetes/gateway/settings.yaml >"$work/gateway.ron"
run --volume "$work/gateway.ron:/etc/kasm-void/gateway.ron:ro" "$image" gateway --check
# It would say so if it had been built without the gateway.
if said=$(run "$image" gateway --config /none 2>&1); then
	fail "a gateway without settings has run"
fi
case $said in
*"cannot read the settings"*) ;;
*) fail "$said" ;;
esac

step "push $image"
docker push "$image"
digest=$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$image" | sed -n "s|^$repository@||p" | head -n 1)
[ -n "$digest" ] || fail "docker does not say which digest it has pushed"
if [ "$repository" != "$home" ]; then
	echo "pushed $image ($digest); a rehearsal pins nothing"
	exit
fi
image/pin.sh image/kubernetes/gateway/deployment.yaml "$version@$digest"
echo "commit image/kubernetes/gateway/deployment.yaml"
