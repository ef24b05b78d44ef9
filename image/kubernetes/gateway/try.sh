#!/bin/bash
# try.sh [DIR]: the gateway on a real API server, with the rights of its own ServiceAccount, in front of our real launcher: what
# people do on the page, a rotated Secret, a frozen API server, a workspace that goes.
# DIR keeps the server (default: target/kubernetes). Needs root, openssl, curl, ip, kubectl and a python3 with yaml, on PATH or in
# the folder TOOLS, and BINARY, a kasm-void with the gateway (default: target/debug/kasm-void).
#
# Not real: no pod runs, so the script writes the status of the Deployments itself; and the addresses of Services lead to this
# machine, as kube-proxy would lead them to pods.
set -euo pipefail

cd "$(dirname "$0")/../../.."
if [ -z "${KUBECONFIG:-}" ] || [ -z "${SERVER:-}" ]; then
	# A network of its own, in which every address of a Service is this machine.
	# shellcheck disable=SC2016 # for the inner shell
	exec unshare --net sh -c 'ip link set lo up && ip address add 192.0.2.1/32 dev lo && ip route add default dev lo && ip route add local 10.96.0.0/16 dev lo && exec "$@"' sh \
		image/kubernetes/server.sh "${1:-target/kubernetes}" "$0"
fi
[ -z "${TOOLS:-}" ] || PATH=$TOOLS:$PATH
binary=${BINARY:-target/debug/kasm-void}
work=$(mktemp -d)
pids=()
passed=0
finish() {
	kill -CONT "$SERVER_PID" 2>/dev/null || true
	[ "${#pids[@]}" -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT

quiet() {
	"$@" >"$work/said" 2>&1 || {
		cat "$work/said" >&2
		echo "try: failed: $*" >&2
		exit 1
	}
}

# soon WANTED WHAT COMMAND…: the command must print WANTED within a minute.
soon() {
	local wanted=$1 what=$2 said='' end=$((SECONDS + 60))
	shift 2
	while [ "$SECONDS" -lt "$end" ]; do
		said=$("$@" 2>&1) || true
		if [ "$said" = "$wanted" ]; then
			passed=$((passed + 1))
			echo "   ok  $what"
			return
		fi
		sleep 0.1
	done
	printf ' FAIL  %s\n       %s\n       wanted: %s\n       heard:  %s\n' "$what" "$*" "$wanted" "$said"
	tail -n 20 "$work/log" >&2
	exit 1
}

step() {
	printf '\n== %s\n' "$1"
}

k() {
	kubectl --namespace kasm "$@"
}

ask() {
	curl --silent --max-time 20 --header "Authorization: Bearer $caller" "http://127.0.0.1:$port/dashboard/kasm/$1" "${@:2}"
}

# look EXPRESSION: evaluates a Python expression on the list of workspaces.
look() {
	ask workspaces | python3 -c '
import json, sys
told = json.load(sys.stdin)
cluster, all = told["cluster"], {one["name"]: one for one in told["workspaces"]}
print('"$1"')'
}

workspace() {
	k apply --filename - <<-END
		apiVersion: v1
		kind: Service
		metadata: { name: $1-service, labels: { kasm-void.kbve.com/workspace: $1 } }
		spec: { selector: { app: $1 }, ports: [{ name: nav-shim, port: 9998 }] }
		---
		apiVersion: apps/v1
		kind: Deployment
		metadata:
		  name: $1
		  labels: { kasm-void.kbve.com/workspace: $1 }
		  annotations: { kasm-void.kbve.com/token-secret: kasm-vnc/password }
		spec:
		  replicas: $2
		  selector: { matchLabels: { app: $1 } }
		  template:
		    metadata: { labels: { app: $1 } }
		    spec: { containers: [{ name: workspace, image: "ghcr.io/kbve/kasm-void:0.1.0" }] }
	END
}

# status NAME PODS READY: what a kubelet and a controller would report.
status() {
	k patch deployment "$1" --subresource status --type merge \
		--patch "{\"status\":{\"replicas\":$2,\"readyReplicas\":$3,\"availableReplicas\":$3}}"
}

password() {
	k create secret generic kasm-vnc --from-literal "password=$1" --dry-run=client --output yaml | k apply --filename -
}

launcher() {
	URL_LAUNCHER_TOKEN=$1 CDP_PORT=1 "$binary" nav-shim --listen 0.0.0.0 --port 9998 >"$work/launcher.log" 2>&1 &
	launcher_pid=$!
	pids+=("$launcher_pid")
}

step "a cluster with three workspaces, and the gateway's own files"
caller=$(openssl rand -hex 16)
quiet kubectl create namespace kasm
quiet k create secret generic kasm-gateway-tokens --from-literal "tokens=ada $caller"
quiet kubectl apply -k image/kubernetes/gateway
# The Role names the one Deployment of our own files. Here are three others.
quiet k patch role kasm-gateway --type json --patch '[{"op":"replace","path":"/rules/2/resourceNames","value":["one","two","three"]}]'
quiet k create secret generic vpn-wireguard --from-literal KEY=secret
quiet password first-0123456789abcdef
for name in one two three; do
	quiet workspace "$name" 1
	quiet status "$name" 1 1
done
quiet k scale deployment/one --replicas 0
quiet status one 0 0

step "the gateway, with the rights of its ServiceAccount"
token=$(k create token kasm-gateway)
cat >"$work/kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: here
clusters: [{ name: here, cluster: { server: "$SERVER", certificate-authority: "$SERVER_CA" } }]
users: [{ name: gateway, user: { token: "$token" } }]
contexts: [{ name: here, context: { cluster: here, user: gateway, namespace: kasm } }]
END
port=9996
(umask 077 && k get secret kasm-gateway-tokens --output 'jsonpath={.data.tokens}' | base64 --decode >"$work/tokens")
k get configmap kasm-gateway --output 'jsonpath={.data.gateway\.ron}' | sed "s|/run/secrets/kasm-void/tokens|$work/tokens|" >"$work/gateway.ron"
launcher first-0123456789abcdef
KUBECONFIG=$work/kubeconfig "$binary" gateway --config "$work/gateway.ron" >"$work/log" 2>&1 &
pids+=($!)
soon "['one', 'three', 'two']" "the page has all three" look 'sorted(all)'
soon stopped "one is stopped" look 'all["one"]["status"]'
soon "ready True" "two is ready, and its launcher answers" look 'all["two"]["status"], all["two"]["reachable"], sep=" "'

step "start and stop"
soon '{"success":true,"workspace":"one","replicas":1}' "one is started" ask scale/one --request PUT --data '{"replicas":1}'
soon 1 "in the cluster too" k get deployment one --output 'jsonpath={.spec.replicas}'
soon starting "the page shows it" look 'all["one"]["status"]'
quiet status one 1 1
soon ready "and when it is ready" look 'all["one"]["status"]'
soon '{"success":true,"workspace":"one","replicas":0}' "one is stopped" ask scale/one --request PUT --data '{"replicas":0}'
soon stopping "the page shows it" look 'all["one"]["status"]'
quiet status one 0 0
soon stopped "and when it has stopped" look 'all["one"]["status"]'

step "a page, with the token of the Secret, which rotates"
opened() {
	ask "launch-url/$1" --data "{\"url\":\"$2\"}" | cut -c1-60
}
no_browser='{"success":false,"error":"nav shim 503: {\"error\":\"cdp unr'
soon "$no_browser" "the launcher accepts the gateway, and has no browser" opened two http://93.184.215.14/
soon '{"success":false,"error":"url rejected by policy","reason":"' "a private address is refused" opened two http://10.0.0.1/
soon '{"success":false,"error":"nav shim unreachable: the workspac' "a stopped one is not asked" opened one http://93.184.215.14/
kill "$launcher_pid"
wait "$launcher_pid" 2>/dev/null || true
quiet password second-0123456789abcdef
launcher second-0123456789abcdef
soon "$no_browser" "and after the rotation" opened two http://93.184.215.14/

step "rights"
may() {
	kubectl auth can-i --as system:serviceaccount:kasm:kasm-gateway --namespace kasm "$@"
}
for allowed in "list services" "watch services" "list deployments" "watch deployments" "get secret/kasm-vnc"; do
	# shellcheck disable=SC2086 # a verb and an object
	soon yes "it may: $allowed" may $allowed
done
soon yes "it may scale a workspace" may patch deployments/one --subresource scale
soon no "it may not scale itself" may patch deployments/kasm-gateway --subresource scale
for forbidden in "list secrets" "watch secrets" "get secret/vpn-wireguard" "get secret/kasm-gateway-tokens" "patch deployments/one" \
	"create deployments" "delete services" "get pods" "create pods" "get configmaps"; do
	# shellcheck disable=SC2086
	soon no "it may not: $forbidden" may $forbidden
done

step "the API server hangs for a while"
kill -STOP "$SERVER_PID"
soon away "the page says so" look 'cluster["state"]'
soon ready "and shows the last known state" look 'all["two"]["status"]'
soon "$no_browser" "pages are still opened" opened two http://93.184.215.14/
kill -CONT "$SERVER_PID"
soon live "it is back" look 'cluster["state"]'

step "workspaces come and go"
quiet k delete service/three-service deployment/three
soon "['one', 'two']" "three has gone" look 'sorted(all)'
for round in {1..50}; do
	workspace restless 0 >/dev/null
	k delete service/restless-service deployment/restless --wait=false >/dev/null
	[ "$round" -lt 50 ] || break
done
soon "['one', 'two']" "one that came and went fifty times has gone too" look 'sorted(all)'
quiet k label deployment/two kasm-void.kbve.com/workspace=deux --overwrite
quiet k label service/two-service kasm-void.kbve.com/workspace=deux --overwrite
soon "['deux', 'one']" "a renamed one has its new name" look 'sorted(all)'

step "who did what"
soon 2 "the audit has who scaled" grep -c '"caller":"ada".*"verdict":"scaled"' "$work/log"
soon 0 "and no token" grep -c -e "$caller" -e 0123456789abcdef "$work/log"

printf '\n%s passed, 0 failed\n' "$passed"
