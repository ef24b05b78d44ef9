#!/bin/bash
# Builds the files of a release: for each architecture an archive and a Debian package, and the checksums of all.
#
#   packaging/release.sh [DIR]                     writes them to DIR (default: target/packages)
#   KASM_VOID_BINARY=FILE packaging/release.sh     packs this binary of this machine instead of building
#
# The binary is static: it runs with any C library, and with none. It uses musl if rustup has that target and there is a
# musl-gcc; else the C library of this machine, whose lookups of users and hosts need no shared library since glibc 2.34.
#
# Besides that of this machine, it builds for arm64 if that is set up: `rustup target add aarch64-unknown-linux-gnu`, and the
# Debian package gcc-aarch64-linux-gnu.
set -euo pipefail

cd "$(dirname "$0")/.."
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
out=${1:-target/packages}
arm=aarch64-unknown-linux-gnu

step() {
	printf 'release: %s\n' "$*"
}

has_target() {
	rustup target list --installed 2>/dev/null | grep -qx "$1"
}

# build TARGET: builds the static binary; its path is in $binary
build() {
	step "building for $1, static"
	# The target is named because proc macros are built for this machine, and cannot be static.
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$1"
	binary=${CARGO_TARGET_DIR:-target}/$1/release/kasm-void
}

# build_here: builds for this machine
build_here() {
	host=$(rustc -vV | sed -n 's/^host: //p')
	musl=${host%-gnu}-musl
	if has_target "$musl" && command -v musl-gcc >/dev/null; then
		build "$musl"
	else
		build "$host"
	fi
}

# build_for_arm: the same for arm64, on another machine
build_for_arm() {
	export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
	build "$arm"
}

# tree ROOT: lays out everything as it is installed. $runs is a binary that this machine can run.
tree() {
	install -Dm755 "$binary" "$1/usr/bin/kasm-void"
	install -Dm644 packaging/kasm-void.service "$1/usr/lib/systemd/user/kasm-void.service"
	install -d "$1/usr/share/bash-completion/completions" "$1/usr/share/zsh/vendor-completions" \
		"$1/usr/share/fish/vendor_completions.d" "$1/usr/share/man/man1"
	"$runs" completions bash >"$1/usr/share/bash-completion/completions/kasm-void"
	"$runs" completions zsh >"$1/usr/share/zsh/vendor-completions/_kasm-void"
	"$runs" completions fish >"$1/usr/share/fish/vendor_completions.d/kasm-void.fish"
	"$runs" man "$1/usr/share/man/man1" >/dev/null
	gzip -9n "$1"/usr/share/man/man1/*.1
	install -Dm644 -t "$1/usr/share/doc/kasm-void" README.md docs/*.md
	install -Dm644 LICENSE "$1/usr/share/doc/kasm-void/copyright"
	gzip -9nc CHANGELOG.md >"$1/usr/share/doc/kasm-void/changelog.gz"
	chmod -R u=rwX,go=rX "$1"
}

# depends FILE: the packages that the binary needs; none if it is static
depends() {
	if ldd "$1" 2>&1 | grep -q libc.so; then
		wanted=$(grep -aoE 'GLIBC_2\.[0-9]+' "$1" | sort -uV | tail -n 1)
		echo "Depends: libc6 (>= ${wanted#GLIBC_}), libgcc-s1"
	fi
}

# deb ROOT ARCHITECTURE: packs ROOT as a Debian package
deb() {
	package=$out/kasm-void_${version}_$2.deb
	step "packing $package"
	control=$1/DEBIAN
	mkdir "$control"
	(cd "$1" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$control/md5sums"
	{
		cat <<-END
			Package: kasm-void
			Version: $version
			Architecture: $2
			Maintainer: KBVE (https://github.com/KBVE/kbve)
			Installed-Size: $(du -sk --exclude=DEBIAN "$1" | cut -f1)
			Section: admin
			Priority: optional
			Homepage: https://github.com/KBVE/kbve
		END
		depends "$1/usr/bin/kasm-void"
		# What the built-in desktop runs.
		cat <<-END
			Suggests: tigervnc-standalone-server, openbox, wmctrl, websockify, novnc, xterm, fonts-dejavu-core, chromium
			Description: process supervisor for container desktops
			 Starts the apps that small RON files describe, restarts them when they die or are
			 closed, and applies changes of the files at once. One program, no other daemon.
		END
	} >"$control/control"
	chmod 644 "$control"/*
	dpkg-deb --root-owner-group --build "$1" "$package" >/dev/null
	rm -r "$control"
}

# archive ROOT MACHINE: packs the same files for other systems
archive() {
	name=kasm-void-$version-$2-linux
	step "packing $out/$name.tar.gz"
	mkdir "$work/$name"
	cp "$1/usr/bin/kasm-void" README.md CHANGELOG.md LICENSE packaging/kasm-void.service "$work/$name"
	cp -r docs manifests "$work/$name"
	cp -r "$1/usr/share/man" "$work/$name/man"
	mkdir "$work/$name/completions"
	cp "$1"/usr/share/bash-completion/completions/kasm-void "$work/$name/completions/kasm-void.bash"
	cp "$1"/usr/share/zsh/vendor-completions/_kasm-void "$1"/usr/share/fish/vendor_completions.d/kasm-void.fish \
		"$work/$name/completions"
	tar -C "$work" --owner=0 --group=0 --sort=name -czf "$out/$name.tar.gz" "$name"
}

# pack MACHINE ARCHITECTURE: packs $binary for an architecture, as uname and Debian call it
pack() {
	tree "$work/$1"
	archive "$work/$1" "$1"
	if command -v dpkg-deb >/dev/null; then
		deb "$work/$1" "$2"
	else
		step "no Debian package: there is no dpkg-deb here"
	fi
}

binary=${KASM_VOID_BINARY:-}
[ -n "$binary" ] || build_here
runs=$binary
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
rm -f "$out"/kasm-void[-_]* "$out/SHA256SUMS"
machine=$(uname -m)
case $machine in
x86_64) pack "$machine" amd64 ;;
aarch64) pack "$machine" arm64 ;;
*) pack "$machine" "$(dpkg --print-architecture 2>/dev/null || echo "$machine")" ;;
esac
if [ -n "${KASM_VOID_BINARY:-}" ] || [ "$machine" = aarch64 ]; then
	:
elif has_target $arm && command -v aarch64-linux-gnu-gcc >/dev/null; then
	build_for_arm
	pack aarch64 arm64
else
	step "nothing for arm64: run \`rustup target add $arm\` and install gcc-aarch64-linux-gnu"
fi
(cd "$out" && sha256sum kasm-void* >SHA256SUMS)
step "done: $(cd "$out" && echo *)"
