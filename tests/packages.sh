#!/bin/bash
# Packs a release of the binary in KASM_VOID_BINARY, and looks at it as a user does: unpacks the archive and the Debian package,
# runs the program, and reads its man pages, completions and unit.
set -euo pipefail

cd "$(dirname "$0")/.."
command -v dpkg-deb >/dev/null || { echo "packages: there is no dpkg-deb here" >&2 && exit 77; }
: "${KASM_VOID_BINARY:?name a kasm-void to pack}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
	echo "packages: $*" >&2
	exit 1
}

packaging/release.sh "$work/out"
(cd "$work/out" && sha256sum --quiet --check SHA256SUMS)
version=$("$KASM_VOID_BINARY" --version | cut -d' ' -f2)

mkdir "$work/archive"
tar -C "$work/archive" -xzf "$work"/out/kasm-void-"$version"-*.tar.gz
cd "$work"/archive/kasm-void-"$version"-*
[ "$(./kasm-void --version)" = "kasm-void $version" ] || fail "the program of the archive is not version $version"
for file in README.md LICENSE kasm-void.service completions/kasm-void.bash docs/tutorial.md man/man1/kasm-void.1.gz; do
	[ -s "$file" ] || fail "the archive lacks $file"
done

deb=$(echo "$work"/out/*.deb)
dpkg-deb -x "$deb" "$work/root"
[ "$("$work/root/usr/bin/kasm-void" --version)" = "kasm-void $version" ] || fail "the program of the package is not version $version"
[ "$(dpkg-deb -f "$deb" Version)" = "$version" ] || fail "the package is not version $version"
odd=$(dpkg-deb -c "$deb" | awk '$2 != "root/root" || $1 !~ /^(drwxr-xr-x|-rwxr-xr-x|-rw-r--r--)$/')
[ -z "$odd" ] || fail "odd owners or modes: $odd"
# Every verb of the help has a man page.
for verb in $("$KASM_VOID_BINARY" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p' | grep -v '^help$'); do
	[ -s "$work/root/usr/share/man/man1/kasm-void-$verb.1.gz" ] || fail "there is no man page of $verb"
done
for file in bash-completion/completions/kasm-void zsh/vendor-completions/_kasm-void fish/vendor_completions.d/kasm-void.fish; do
	[ -s "$work/root/usr/share/$file" ] || fail "the package lacks $file"
done
zcat "$work/root/usr/share/man/man1/kasm-void.1.gz" | grep -q '^\.TH' || fail "kasm-void.1 is no man page"
bash -n "$work/root/usr/share/bash-completion/completions/kasm-void"
if command -v systemd-analyze >/dev/null; then
	unit=$work/root/usr/lib/systemd/user/kasm-void.service
	sed -i "s|/usr/bin/kasm-void|$work/root/usr/bin/kasm-void|" "$unit"
	XDG_RUNTIME_DIR=$work systemd-analyze --user --man=no verify "$unit" || fail "the unit is wrong"
fi
echo "packages: the archive and the Debian package of $version are right"
