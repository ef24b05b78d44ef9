#!/bin/bash
# kubernetes.sh TOOLS: renders the Kubernetes files, checks every field against the schemas of the oldest supported version
# (1.29: native sidecars) and of the newest, and checks what no schema covers. TOOLS is a folder with kubectl,
# kubernetes-validate and a Python that has yaml. It needs no cluster.
set -euo pipefail

tools=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for folder in base overlays/kbve gateway overlays/gateway-cilium; do
	rendered=$work/${folder##*/}.yaml
	"$tools/kubectl" kustomize "image/kubernetes/$folder" >"$rendered"
	for version in 1.29 1.37; do
		"$tools/kubernetes-validate" --quiet --no-warn --strict --kubernetes-version "$version" "$rendered"
	done
done
"$tools/python" tests/image/kubernetes.py "$work/base.yaml" "$work/kbve.yaml" "$work/gateway.yaml" "$work/gateway-cilium.yaml"

# Run the rotation script as it is in the Deployment: 32 letters and digits, different each time.
mkdir "$work/bin"
printf '#!/bin/sh\ncat /tmp/patch.json\n' >"$work/bin/kubectl"
chmod +x "$work/bin/kubectl"
rotation() {
	"$tools/python" - "$work/kbve.yaml" <<-'END'
		import sys, yaml
		deployment = next(found for found in yaml.safe_load_all(open(sys.argv[1])) if found["kind"] == "Deployment")
		containers = deployment["spec"]["template"]["spec"]["initContainers"]
		print(next(container for container in containers if container["name"] == "rotate-vnc-password")["args"][0])
	END
}
rotation | sed -e "s|/tmp/patch.json|$work/patch.json|" -e 's|>/dev/null||' >"$work/rotation"
sed -i "s|/tmp/patch.json|$work/patch.json|" "$work/bin/kubectl"
for _ in 1 2; do
	PATH=$work/bin:$PATH SECRET_NAME=kasm-vnc-pw SECRET_KEY=password sh -eu "$work/rotation" >>"$work/rotated"
done
sound=$(grep -oE '^\{"stringData":\{"password":"[A-Za-z0-9]{32}"\}\}' "$work/rotated" | sort -u | wc -l)
if [ "$sound" -ne 2 ]; then
	echo "kubernetes: the rotation wrote:" >&2
	cat "$work/rotated" >&2
	exit 1
fi
echo "the Kubernetes files are as they should be"
