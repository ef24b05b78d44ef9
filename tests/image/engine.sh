#!/bin/bash
# engine.sh DIR COMMAND…: runs COMMAND with a working docker. If none is running, it sets up a private engine in DIR from
# Debian's packages (nothing is installed), which ends with COMMAND. The private engine needs root. It has no bridge network
# (use --network host or none) and does not enforce memory, cpu or pids limits.
set -euo pipefail

fail() {
	echo "engine: $*" >&2
	exit 1
}

if docker buildx version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
	shift
	exec "$@"
fi

[ "$(id -u)" -eq 0 ] || fail "no docker answers, and only root can make a private one: start docker, or run this as root"
patient_apt=$(cd "$(dirname "$0")/.." && pwd)/apt.sh
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
exec 9>"$dir/lock"
flock --nonblock 9 || fail "another engine runs in $dir: wait for it to end"

# Packages of Debian 13, because Debian 12's docker does not support named build contexts. Only runc is this system's own:
# Debian 13's needs a newer C library than Debian 12 has.
unpack() {
	local mirror apt=$dir/apt
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/*$') ||
		fail "apt names no Debian mirror: run this on Debian, or start docker"
	rm -rf "$apt" "$dir/root"
	mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$dir/root" "$dir/config/cli-plugins"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$apt/sources.list"
	local of_13=(
		-o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
		-o "Dir::Cache::archives=$apt/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
	)
	(
		cd "$apt/archives"
		"$patient_apt" update
		apt-get download -qq -o APT::Sandbox::User=root runc
		apt-get "${of_13[@]}" -o APT::Sandbox::User=root update -qq
		apt-get "${of_13[@]}" -o APT::Sandbox::User=root download -qq docker.io docker-cli docker-buildx containerd tini
		for package in *.deb; do
			dpkg-deb --extract "$package" "$dir/root"
		done
	)
	ln -sf "$dir/root/usr/libexec/docker/cli-plugins/docker-buildx" "$dir/config/cli-plugins/"
	rm -rf "$apt"
	touch "$dir/complete"
}

[ -e "$dir/complete" ] || unpack

export PATH=$dir/root/usr/sbin:$dir/root/usr/bin:$PATH DOCKER_HOST=unix://$dir/run/docker.sock DOCKER_CONFIG=$dir/config

# Its own mount and pid namespaces, so that nothing is left running. A cgroup2 mount, because runc refuses a machine that has
# both versions. A limit on open files, because the engine's default is more than some machines grant.
exec unshare --mount --pid --fork --kill-child --mount-proc bash -c '
	dir=$1
	shift
	umount --recursive /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	rm -rf "$dir/run"
	mkdir -p "$dir/run"
	files=$(ulimit -Hn)
	dockerd --host "$DOCKER_HOST" --data-root "$dir/data" --exec-root "$dir/run/exec" --pidfile "$dir/run/pid" \
		--bridge=none --iptables=false --ip6tables=false --default-ulimit "nofile=$files:$files" >"$dir/dockerd.log" 2>&1 &
	for _ in {1..300}; do
		docker version >/dev/null 2>&1 && break
		sleep 0.1
	done
	if ! docker version >/dev/null 2>&1; then
		echo "engine: dockerd does not answer:" >&2
		tail -n 20 "$dir/dockerd.log" >&2
		exit 1
	fi
	"$@"
' engine "$dir" "$@"
