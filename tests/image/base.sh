#!/bin/bash
# base.sh DIR: builds the stand-in for KASM's image. Makes DIR/base.tar (Debian: an X server with VNC, XFCE, and a
# renamed Chromium as Discord) and DIR/archive/cloakbrowser.tar.gz (the same Chromium). Needs root, about two minutes.
set -euo pipefail

mkdir -p "$1/archive"
dir=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=/dev/null
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
mapfile -t sources < <(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | sort -u | grep -E "/debian(-security)?/* $suite" | grep ' main$')
[ "${#sources[@]}" -gt 0 ] || {
	echo "base: apt names no Debian mirror: run this on Debian" >&2
	exit 1
}
command -v mmdebstrap >/dev/null || "$here/../apt.sh" install -y --no-install-recommends mmdebstrap

packages=ca-certificates,curl,dbus,dbus-x11,fonts-dejavu-core,gvfs,procps,scrot,tigervnc-standalone-server,wmctrl
packages=$packages,x11-utils,x11-xserver-utils,xdotool,xauth,xfce4-session,xfwm4,xfdesktop4,xfce4-settings,xfce4-terminal,thunar,zenity,chromium

# The browser's folder is used twice: as CloakBrowser's archive, wrapped as the real one may be, and as Discord. It is copied,
# not linked, because Chromium looks for its resources beside its program file.
mmdebstrap --quiet --format=tar --variant=minbase --mode=root --hook-dir=/usr/share/mmdebstrap/hooks/eatmydata \
	--aptopt='APT::Install-Recommends "0"' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--include="$packages" \
	--customize-hook='chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash kasm-user' \
	--customize-hook='chroot "$1" dbus-uuidgen --ensure=/etc/machine-id' \
	--customize-hook='cp "$1/usr/share/icons/hicolor/48x48/apps/chromium.png" "$1/usr/share/pixmaps/discord.png"' \
	--customize-hook='mv "$1/usr/lib/chromium" "$1/usr/share/discord" && rm -f "$1/usr/bin/chromium"' \
	--customize-hook='mv "$1/usr/share/discord/chromium" "$1/usr/share/discord/chrome"' \
	--customize-hook="tar --create --file '$dir/archive/cloakbrowser.tar.gz' --use-compress-program='gzip -1' --directory \"\$1/usr/share/discord\" --transform 's,^\\./,cloakbrowser-linux-x64/,' ." \
	--customize-hook='mv "$1/usr/share/discord/chrome" "$1/usr/share/discord/Discord"' \
	--customize-hook="cp -r '$here/kasm/.' \"\$1/\"" \
	"$suite" "$dir/base.tar.new" "${sources[@]}"
mv "$dir/base.tar.new" "$dir/base.tar"
