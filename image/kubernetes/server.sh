#!/bin/bash
# server.sh DIR COMMAND…: starts a real Kubernetes API server (version 1.20), sets KUBECONFIG, and runs COMMAND. The server
# stops when COMMAND exits. It is built from Debian's source package (some five minutes on two cores the first time) and kept
# in DIR; nothing is installed. There is no kubelet and no scheduler, so no pod is ever started.
#
#   KUBECONFIG         administrator access
#   SERVER_CA, SERVER  the server's certificate authority and address, for clients of your own
#   SERVER_PID         its process, to freeze
set -euo pipefail

fail() {
	echo "server: $*" >&2
	exit 1
}

mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
exec 9>"$dir/lock"
flock 9 # another process may be building the server

# Debian 12 is the last release with this source and a Go that compiles it.
packages() {
	local mirror apt=$dir/apt
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | grep -m1 '/debian/*$') ||
		fail "apt names no Debian mirror: run this on Debian"
	rm -rf "$apt" "$dir/root" "$dir/src"
	mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$dir/root" "$dir/src"
	printf '%s [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s bookworm main\n' deb "$mirror" deb-src "$mirror" >"$apt/sources.list"
	local only=(
		-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
		-o "Dir::Cache::archives=$apt/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root
	)
	(
		cd "$apt/archives"
		apt-get "${only[@]}" update -qq
		apt-get "${only[@]}" download -qq golang-1.19-go golang-1.19-src etcd-server golang-github-modern-go-reflect2-dev
		for package in *.deb; do
			dpkg-deb --extract "$package" "$dir/root"
		done
		apt-get "${only[@]}" source -qq --download-only kubernetes
		tar --extract --gzip --file kubernetes_*.orig.tar.gz --directory "$dir/src" --strip-components=1
	)
	rm -rf "$apt"
}

# Go needs the source at its import path. The vendored reflect2 crashes on custom resources, so a newer one is used. The
# OpenAPI definitions are generated, as in upstream's build.
build() {
	local gopath=$dir/go
	export GOROOT=$dir/root/usr/lib/go-1.19 GOPATH=$gopath GOCACHE=$dir/cache GO111MODULE=off CGO_ENABLED=0 GOFLAGS=-p=2
	# Debian splits Go into two folders, joined by links that lead out of this folder. Link them again.
	local name
	for name in api misc pkg/include src test; do
		ln -sfn "$dir/root/usr/share/go-1.19/$name" "$GOROOT/$name"
	done
	rm -rf "$gopath"
	mkdir -p "$gopath/src/k8s.io"
	mv -T "$dir/src" "$gopath/src/k8s.io/kubernetes"
	cd "$gopath/src/k8s.io/kubernetes"
	local reflect2=$dir/root/usr/share/gocode/src/github.com/modern-go/reflect2
	rm -rf vendor/github.com/modern-go/reflect2
	cp -r "$reflect2" vendor/github.com/modern-go/reflect2
	local inputs
	inputs=$(grep -rl --include='*.go' '^// +k8s:openapi-gen=' pkg staging/src/k8s.io vendor/k8s.io 2>/dev/null |
		grep -v -e '/code-generator/' -e '/sample-' -e '_test.go' -e '/test/' -e '/testing/' | xargs -n 1 dirname | sort -u |
		sed -e 's|^staging/src/|k8s.io/kubernetes/vendor/|' -e 's|^vendor/|k8s.io/kubernetes/vendor/|' -e 's|^pkg/|k8s.io/kubernetes/pkg/|' |
		sort -u | paste -sd,)
	"$GOROOT/bin/go" build -o "$dir/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
	"$dir/openapi-gen" -i "$inputs" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
		-h hack/boilerplate/boilerplate.generatego.txt -r "$dir/violations" --output-base "$gopath/src"
	"$GOROOT/bin/go" build -o "$dir/kube-apiserver.new" ./cmd/kube-apiserver
	mv "$dir/kube-apiserver.new" "$dir/kube-apiserver"
	cp "$dir/root/usr/bin/etcd" "$dir/etcd"
	chmod -R u+w "$gopath"
	rm -rf "$gopath" "$dir/cache" "$dir/root" "$dir/openapi-gen"
}

if [ ! -x "$dir/kube-apiserver" ] || [ ! -x "$dir/etcd" ]; then
	echo "server: building a Kubernetes API server from Debian's source; this takes some minutes, once" >&2
	packages
	(build)
fi
flock --unlock 9

work=$(mktemp -d)
etcd_pid='' server_pid=''
finish() {
	# shellcheck disable=SC2086 # none, one or two
	kill $server_pid $etcd_pid 2>/dev/null || true
	wait 2>/dev/null || true
	rm -rf "$work"
}
trap finish EXIT

free_port() {
	python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

token=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
echo "$token,admin,admin,system:masters" >"$work/tokens"
openssl genrsa -out "$work/accounts.key" 2048 2>/dev/null
client=$(free_port) peer=$(free_port) port=$(free_port)
"$dir/etcd" --data-dir "$work/etcd" --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
	--listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
	--initial-cluster "default=http://127.0.0.1:$peer" --unsafe-no-fsync >"$work/etcd.log" 2>&1 &
etcd_pid=$!
"$dir/kube-apiserver" --etcd-servers "http://127.0.0.1:$client" --bind-address 127.0.0.1 --secure-port "$port" \
	--cert-dir "$work/certificates" --token-auth-file "$work/tokens" --authorization-mode RBAC --service-cluster-ip-range 10.96.0.0/16 \
	--service-account-key-file "$work/accounts.key" --service-account-signing-key-file "$work/accounts.key" \
	--service-account-issuer https://kubernetes.default.svc --disable-admission-plugins ServiceAccount >"$work/server.log" 2>&1 &
server_pid=$!

export SERVER_PID=$server_pid SERVER=https://127.0.0.1:$port SERVER_CA=$work/certificates/apiserver.crt KUBECONFIG=$work/kubeconfig
cat >"$KUBECONFIG" <<END
apiVersion: v1
kind: Config
current-context: here
clusters: [{ name: here, cluster: { server: "$SERVER", certificate-authority: "$SERVER_CA" } }]
users: [{ name: admin, user: { token: "$token" } }]
contexts: [{ name: here, context: { cluster: here, user: admin } }]
END
for _ in {1..600}; do
	if curl --silent --fail --cacert "$SERVER_CA" --header "Authorization: Bearer $token" --output /dev/null "$SERVER/readyz" 2>/dev/null; then
		break
	fi
	kill -0 "$server_pid" 2>/dev/null || break
	sleep 0.1
done
curl --silent --fail --cacert "$SERVER_CA" --header "Authorization: Bearer $token" --output /dev/null "$SERVER/readyz" || {
	tail -n 20 "$work/etcd.log" "$work/server.log" >&2
	fail "the API server does not answer"
}
"$@"
