#!/bin/bash
# kubernetes.sh TOOLS: renders the Kubernetes files and checks every field against the schemas of each version they
# should apply to. TOOLS is a folder with kubectl and kubernetes-validate; no cluster is asked.
set -euo pipefail

tools=$(cd "$1" && pwd)
cd "$(dirname "$0")/../../image/kubernetes"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for folder in base overlays/kbve; do
	"$tools/kubectl" kustomize "$folder" >"$work/${folder//\//-}.yaml"
	for version in 1.29 1.37; do
		"$tools/kubernetes-validate" --quiet --no-warn --strict --kubernetes-version "$version" "$work/${folder//\//-}.yaml"
	done
done

# What no schema knows: the contract with the cluster.
rendered=$work/overlays-kbve.yaml
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
