#!/bin/bash
# try.sh [DIR]: applies the Kubernetes files to a real API server and does what operators and the dashboard do: the swap
# from the older image and back, scaling, rights, the rotation of the password, an edit of the manifests.
# DIR keeps the server (default: target/kubernetes). Needs Debian, openssl, curl, and kubectl and a python3 with yaml, on PATH
# or in the folder TOOLS.
#
# Not real: the kinds of Cilium and the monitoring are stand-ins without a schema, and no pod runs. The server is 1.20, so
# newer fields are removed first (native sidecars and their probes, policy/v1); the schemas of 1.29 and 1.37 check those.
set -euo pipefail

cd "$(dirname "$0")/../.."
if [ -z "${KUBECONFIG:-}" ] || [ -z "${SERVER:-}" ]; then
	exec image/kubernetes/server.sh "${1:-target/kubernetes}" "$0"
fi
[ -z "${TOOLS:-}" ] || PATH=$TOOLS:$PATH
here=image/kubernetes
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0

# is WANTED WHAT COMMAND…: the command must print WANTED.
is() {
	local wanted=$1 what=$2 said
	shift 2
	said=$("$@" 2>&1) || true
	if [ "$said" != "$wanted" ]; then
		printf ' FAIL  %s\n       %s\n       wanted: %s\n       heard:  %s\n' "$what" "$*" "$wanted" "$said"
		exit 1
	fi
	passed=$((passed + 1))
	echo "   ok  $what"
}

quiet() {
	"$@" >"$work/said" 2>&1 || {
		cat "$work/said" >&2
		echo "try: failed: $*" >&2
		exit 1
	}
}

# rendered FOLDER: prints what `kubectl apply -k FOLDER` sends, reduced to what a 1.20 server understands.
rendered() {
	kubectl kustomize "$here/$1" | python3 -c '
import sys, yaml
for found in yaml.safe_load_all(sys.stdin):
    if found["apiVersion"] == "policy/v1":
        found["apiVersion"] = "policy/v1beta1"
    if found["kind"] == "Deployment":
        for container in found["spec"]["template"]["spec"]["initContainers"]:
            for newer in ("restartPolicy", "startupProbe", "readinessProbe", "livenessProbe"):
                container.pop(newer, None)
    print("---", yaml.safe_dump(found), sep="\n")'
}

# apply FOLDER [OPTION…]
apply() {
	rendered "$1" >"$work/rendered.yaml"
	kubectl apply --filename "$work/rendered.yaml" "${@:2}"
}

field() {
	kubectl --namespace kasm get "$1" --output "jsonpath={$2}"
}

may() {
	local who=$1
	shift
	kubectl auth can-i --as "system:serviceaccount:$who" --namespace kasm "$@"
}

step() {
	printf '\n== %s\n' "$1"
}

# kind GROUP VERSION KIND PLURAL: defines a custom kind that accepts anything.
kind() {
	kubectl apply --filename - <<-END
		apiVersion: apiextensions.k8s.io/v1
		kind: CustomResourceDefinition
		metadata: { name: $4.$1 }
		spec:
		  group: $1
		  scope: Namespaced
		  names: { kind: $3, plural: $4 }
		  versions:
		    - name: $2
		      served: true
		      storage: true
		      schema: { openAPIV3Schema: { type: object, x-kubernetes-preserve-unknown-fields: true } }
	END
}

# The older image's objects in the cluster, reduced to names and immutable fields.
predecessor() {
	kubectl apply --filename - <<-'END'
		apiVersion: v1
		kind: Namespace
		metadata: { name: kasm }
		---
		apiVersion: v1
		kind: ServiceAccount
		metadata: { name: kasm-init-sa, namespace: kasm }
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: Role
		metadata: { name: kasm-vnc-pw-rotator, namespace: kasm }
		rules: [{ apiGroups: [""], resources: ["secrets"], resourceNames: ["kasm-vnc-pw"], verbs: ["get", "patch", "update"] }]
		---
		apiVersion: rbac.authorization.k8s.io/v1
		kind: RoleBinding
		metadata: { name: kasm-init-sa-rotator, namespace: kasm }
		roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: kasm-vnc-pw-rotator }
		subjects: [{ kind: ServiceAccount, name: kasm-init-sa, namespace: kasm }]
		---
		apiVersion: v1
		kind: PersistentVolumeClaim
		metadata: { name: kasm-discord-profile, namespace: kasm }
		spec: { accessModes: ["ReadWriteOnce"], storageClassName: longhorn, resources: { requests: { storage: 5Gi } } }
		---
		apiVersion: v1
		kind: Service
		metadata: { name: kasm-vpn-service, namespace: kasm }
		spec: { selector: { app: kasm-vpn }, ports: [{ name: web, port: 6901 }, { name: nav-shim, port: 9998 }] }
		---
		apiVersion: cilium.io/v2
		kind: CiliumNetworkPolicy
		metadata: { name: kasm-vpn-egress-lockdown, namespace: kasm }
		spec: { endpointSelector: {}, egress: [{ toCIDR: ["10.0.0.0/8", "172.16.0.0/12"] }] }
		---
		apiVersion: apps/v1
		kind: Deployment
		metadata: { name: kasm-vpn, namespace: kasm, annotations: { secret.reloader.stakater.com/reload: vpn-wireguard } }
		spec:
		  replicas: 0
		  selector: { matchLabels: { app: kasm-vpn } }
		  template:
		    metadata: { labels: { app: kasm-vpn } }
		    spec:
		      serviceAccountName: kasm-init-sa
		      initContainers: [{ name: gen-vnc-pw, image: "curlimages/curl:8.10.1" }]
		      containers:
		        - { name: gluetun, image: "ghcr.io/qdm12/gluetun:v3.41.1" }
		        - name: workspace
		          image: ghcr.io/kbve/kasm-void:0.0.6
		          volumeMounts: [{ name: discord-profile, mountPath: /home/kasm-user }]
		      volumes: [{ name: discord-profile, persistentVolumeClaim: { claimName: kasm-discord-profile } }]
	END
}

step "a cluster with the predecessor in it"
quiet kind cilium.io v2 CiliumNetworkPolicy ciliumnetworkpolicies
quiet kind monitoring.coreos.com v1 PodMonitor podmonitors
for kind in ciliumnetworkpolicies.cilium.io podmonitors.monitoring.coreos.com; do
	quiet kubectl wait --for condition=Established --timeout 60s "crd/$kind"
done
quiet kubectl create namespace kbve
quiet kubectl --namespace kbve create serviceaccount kbve-app
quiet predecessor
quiet kubectl --namespace kasm create secret generic kasm-vnc-pw --from-literal password=placeholder
quiet kubectl --namespace kasm create secret generic vpn-wireguard --from-literal VPN_TYPE=wireguard
volume=$(field pvc/kasm-discord-profile .metadata.uid)

step "the swap, as docs/migrate.md says it"
# Otherwise the apply reads "no replicas" as "remove replicas", and the server starts one.
kubectl --namespace kasm apply view-last-applied deployment/kasm-vpn --output yaml | sed '/^  replicas:/d' >"$work/last-applied.yaml"
quiet kubectl --namespace kasm apply set-last-applied --filename "$work/last-applied.yaml"
quiet apply overlays/kbve
is "$volume" "the volume is the one that was there" field pvc/kasm-discord-profile .metadata.uid
is placeholder "the secret is as it was" sh -c 'kubectl --namespace kasm get secret/kasm-vnc-pw --output "jsonpath={.data.password}" | base64 --decode'
is 0 "nobody was scaled" field deployment/kasm-vpn .spec.replicas
is "ghcr.io/kbve/kasm-void:$(sed -n 's/^published = "\(.*\)"/\1/p' image/version.toml)" "the workspace is ours" \
	sh -c "kubectl --namespace kasm get deployment/kasm-vpn --output 'jsonpath={.spec.template.spec.containers[?(@.name==\"workspace\")].image}' | cut -d@ -f1"
is "workspace" "gluetun has moved to the sidecars" field deployment/kasm-vpn '.spec.template.spec.containers[*].name'
is "6901 9998 9102" "the Service has numbers" field service/kasm-vpn-service '.spec.ports[*].targetPort'
is "" "the lockdown allows no range of the cluster" field ciliumnetworkpolicy/kasm-vpn-egress-lockdown '.spec.egress[*].toCIDR'
is "" "applied once more, it would change nothing" sh -c "kubectl diff --filename $work/rendered.yaml 2>/dev/null"

step "scaling is the operator's"
quiet kubectl --namespace kasm scale deployment/kasm-vpn --replicas 1
quiet apply overlays/kbve
is 1 "an apply leaves it" field deployment/kasm-vpn .spec.replicas
quiet kubectl --namespace kasm scale deployment/kasm-vpn --replicas 0
is 0 "and back" field deployment/kasm-vpn .spec.replicas

step "rights"
is yes "the dashboard reads the password" may kbve:kbve-app get secret/kasm-vnc-pw
for forbidden in "patch secret/kasm-vnc-pw" "get secret/vpn-wireguard" "list secrets" "get pods" "delete deployment/kasm-vpn"; do
	# shellcheck disable=SC2086 # a verb and an object
	is no "the dashboard may not: $forbidden" may kbve:kbve-app $forbidden
done
for allowed in "get secret/kasm-vnc-pw" "patch secret/kasm-vnc-pw"; do
	# shellcheck disable=SC2086
	is yes "the rotation may: $allowed" may kasm:kasm-init-sa $allowed
done
for forbidden in "delete secret/kasm-vnc-pw" "get secret/vpn-wireguard" "list secrets" "create pods"; do
	# shellcheck disable=SC2086
	is no "the rotation may not: $forbidden" may kasm:kasm-init-sa $forbidden
done

step "the rotation, as it stands in the Deployment, with its own rights"
token=$(kubectl --namespace kasm create token kasm-init-sa)
cat >"$work/rotation.kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: here
clusters: [{ name: here, cluster: { server: "$SERVER", certificate-authority: "$SERVER_CA" } }]
users: [{ name: rotation, user: { token: "$token" } }]
contexts: [{ name: here, context: { cluster: here, user: rotation, namespace: kasm } }]
END
field deployment/kasm-vpn '.spec.template.spec.initContainers[?(@.name=="rotate-vnc-password")].args[0]' |
	sed "s|/tmp/patch.json|$work/patch.json|g" >"$work/rotation"
password() {
	field secret/kasm-vnc-pw .data.password | base64 --decode
}
for _ in first second; do
	before=$(password)
	quiet env KUBECONFIG="$work/rotation.kubeconfig" SECRET_NAME=kasm-vnc-pw SECRET_KEY=password sh -eu "$work/rotation"
	is 1 "the password is 32 letters and digits" sh -c "printf '%s\n' '$(password)' | grep -cE '^[A-Za-z0-9]{32}\$'"
	is different "and a new one" sh -c "[ '$before' = '$(password)' ] || echo different"
done

step "an edit of the manifests"
quiet kubectl --namespace kasm patch configmap/kasm-void-manifests --type merge --patch '{"data":{"notes.ron":"App(command: \"xterm\")\n"}}'
is 'App(command: "xterm")' "an app more" field configmap/kasm-void-manifests '.data.notes\.ron'
quiet apply overlays/kbve
is 'App(command: "xterm")' "an apply leaves it" field configmap/kasm-void-manifests '.data.notes\.ron'

step "the base, in another namespace"
quiet kubectl create namespace other
quiet apply base --namespace other
is kasm-vnc "it has its own names" kubectl --namespace other get deployment/kasm-vpn \
	--output 'jsonpath={.spec.template.spec.containers[0].env[0].valueFrom.secretKeyRef.name}'

step "and back"
quiet predecessor
quiet kubectl --namespace kasm delete pdb/kasm-vpn podmonitor/kasm-vpn configmap/kasm-void-manifests
is "$volume" "the volume is the one that was there" field pvc/kasm-discord-profile .metadata.uid
is "ghcr.io/qdm12/gluetun:v3.41.1 ghcr.io/kbve/kasm-void:0.0.6" "the predecessor's containers run again" \
	field deployment/kasm-vpn '.spec.template.spec.containers[*].image'

printf '\n%s passed, 0 failed\n' "$passed"
