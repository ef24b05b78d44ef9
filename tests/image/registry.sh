#!/bin/bash
# registry.sh: sourced. Starts a registry for images on this machine: its process is $registry, its address $registry_address.
# $dir is a folder for it and for whoever has sourced it; both end with that shell.

dir=$(mktemp -d)
(cd "$dir" && apt-get download -qq -o APT::Sandbox::User=root docker-registry && dpkg-deb --extract docker-registry_*.deb root)
registry_address=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$dir/registry.yml" <<END
version: 0.1
log: { level: warn }
storage: { filesystem: { rootdirectory: $dir/images } }
http: { addr: "$registry_address" }
END
"$dir/root/usr/bin/docker-registry" serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 &
registry=$!
trap 'kill "$registry" 2>/dev/null || true; rm -rf "$dir"' EXIT
until curl --silent --fail --output /dev/null "http://$registry_address/v2/"; do
	kill -0 "$registry" || {
		cat "$dir/registry.log" >&2
		exit 1
	}
	sleep 0.1
done
