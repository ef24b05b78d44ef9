#!/bin/bash
# gateway.sh BINARY: publishes the gateway's image to a registry of this machine, pulls it again, and runs it as the Deployment
# does. BINARY is a static kasm-void with the gateway. By hand:
#
#   tests/image/engine.sh target/image/docker tests/image/gateway.sh FILE
set -euo pipefail

BINARY=$(realpath "$1")
export BINARY
cd "$(dirname "$0")/../.."
# shellcheck source=tests/image/registry.sh
. tests/image/registry.sh

export REPOSITORY=$registry_address/kasm-void-gateway
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' image/version.toml)
pinned=$(sha256sum image/kubernetes/gateway/deployment.yaml)
image/kubernetes/gateway/publish.sh
[ "$(sha256sum image/kubernetes/gateway/deployment.yaml)" = "$pinned" ] || {
	echo "a rehearsal has pinned something" >&2
	exit 1
}
if image/kubernetes/gateway/publish.sh >"$dir/again" 2>&1; then
	echo "a version was published twice" >&2
	exit 1
fi

docker image rm "$REPOSITORY:$version" >/dev/null
docker pull --quiet "$REPOSITORY:$version" >/dev/null
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
mkdir "$dir/settings"
cat >"$dir/settings/gateway.ron" <<END
Gateway(
    listen: "127.0.0.1:$port",
    workspaces: { "desk": Workspace(launcher: "127.0.0.1:1", token: "/etc/kasm-void/token") },
    tokens: "/etc/kasm-void/tokens",
)
END
echo "ada 0123456789abcdef" >"$dir/settings/tokens"
echo "desk-0123456789abcdef" >"$dir/settings/token"
# As the kubelet mounts a Secret with fsGroup 1000 and mode 0440.
chown -R 0:1000 "$dir/settings"
chmod 0440 "$dir/settings/tokens" "$dir/settings/token"
docker run --detach --name gateway --read-only --cap-drop ALL --security-opt no-new-privileges --network host \
	--volume "$dir/settings:/etc/kasm-void:ro" "$REPOSITORY:$version" >/dev/null
until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/healthz"; do
	[ "$(docker inspect --format '{{.State.Running}}' gateway)" = true ] || {
		docker logs gateway
		exit 1
	}
	sleep 0.1
done
curl --silent --fail "http://127.0.0.1:$port/dashboard/kasm/" | grep -q '<title>Workspaces</title>'
curl --silent --fail --header "Authorization: Bearer 0123456789abcdef" "http://127.0.0.1:$port/dashboard/kasm/workspaces" | grep -q '"name":"desk"'
[ "$(docker inspect --format '{{.Config.User}}' gateway)" = 1000:1000 ]
[ "$(docker inspect --format '{{index .Config.Labels "org.opencontainers.image.version"}}' gateway)" = "$version" ]
docker stop --time 15 gateway >/dev/null
[ "$(docker inspect --format '{{.State.ExitCode}}' gateway)" = 0 ] || {
	echo "it did not stop by itself" >&2
	exit 1
}
docker logs gateway 2>&1 | grep -q '"event":"gateway.ended"'
docker rm gateway >/dev/null
echo "the gateway's image: $(docker image inspect --format '{{.Size}}' "$REPOSITORY:$version") bytes, published, pulled, run and stopped"
