#!/bin/bash
# files.sh TOOLS: checks the image's files without building it: scripts, icons and the Dockerfile. Runs the two build scripts
# with small stand-ins for their downloads. TOOLS is a folder with hadolint.
set -euo pipefail

tools=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mapfile -t scripts < <(find image tests -name '*.sh' -type f | sort)
# Excluded: single quotes around `$` (often meant for a later shell), and functions that only a trap calls.
shellcheck -x --exclude SC2016,SC2317 "${scripts[@]}"
# The base is rebuilt every day, so package versions cannot be pinned.
"$tools/hadolint" --ignore DL3008 image/Dockerfile
desktop-file-validate image/rootfs/opt/kasm-void/Desktop/*.desktop

# refused WORDS COMMAND…: COMMAND must fail and print WORDS.
refused() {
	local words=$1 said
	shift
	if said=$("$@" 2>&1); then
		echo "this should have failed: $*" >&2
		return 1
	fi
	case $said in
	*"$words"*) ;;
	*)
		echo "expected to hear of: $words; heard: $said" >&2
		return 1
		;;
	esac
}

program() {
	mkdir -p "$(dirname "$1")"
	printf '#!/bin/sh\n%s\n' "$2" >"$1"
	chmod 0755 "$1"
}

# browser NAME FOLDER-IN-ARCHIVE PROGRAM: makes an archive with this layout in $work/NAME.
browser() {
	program "$work/$1/tree/$2/$3" "echo a browser"
	tar --create --gzip --file "$work/$1/cloakbrowser.tar.gz" --directory "$work/$1/tree" .
}

unpack() {
	CLOAK_URL=file:///nowhere CLOAK_SHA256=${2-$(sha256sum "$work/$1/cloakbrowser.tar.gz" | cut -d' ' -f1)} \
		CLOAK_UNVERIFIED=${3-} image/build/cloakbrowser.sh "$work/$1" "$work/$1/opt"
}

browser flat . chrome
browser wrapped cloakbrowser-linux-x64 chrome
browser named cloakbrowser-linux-x64 cloakbrowser
browser strange a other
for layout in flat wrapped named; do
	unpack "$layout"
	[ "$("$work/$layout/opt/cloakbrowser")" = "a browser" ]
done
refused "no program named" unpack strange
refused "CLOAK_SHA256 is 00ff" unpack flat 00ff
refused "CLOAK_SHA256 is empty" unpack flat ""
unpack flat "" 1 2>/dev/null
refused "cannot download file:///nowhere" env CLOAK_URL=file:///nowhere CLOAK_SHA256=00 CLOAK_UNVERIFIED= \
	image/build/cloakbrowser.sh "$work" "$work/opt"

# A stand-in for upstream's downloader: it writes DIR/app-VERSION/Discord.
discord=$work/discord
refused "neither" image/build/discord.sh "$discord"
program "$discord/updater_bootstrap" "exit 3"
refused "exit code 3) brought no program" image/build/discord.sh "$discord"
program "$discord/updater_bootstrap" ":"
refused "brought no program" image/build/discord.sh "$discord"
# Two versions at today's depth, a deeper one, and a downloader that fails after it has written the program.
brings='brings() { mkdir -p "$1"; printf "#!/bin/sh\necho %s\n" "$2" >"$1/Discord"; chmod +x "$1/Discord"; }'
program "$discord/updater_bootstrap" "$brings"'; [ "$2 $3" = "stable --no-zenity" ] || exit 2; brings "$1/app-1.0.9" 9; brings "$1/app-1.0.10" 10; exit 1'
image/build/discord.sh "$discord"
[ "$("$discord/Discord")" = 10 ]
rm -r "$discord/app" "$discord/Discord"
program "$discord/updater_bootstrap" "$brings"'; brings "$1/stable/x64/app-1.0.11" 11; touch "$1/stable/x64/app-1.0.11/libffmpeg.so"'
image/build/discord.sh "$discord"
[ "$("$discord/Discord")" = 11 ]
# An existing program is not replaced.
program "$discord/updater_bootstrap" "exit 3"
image/build/discord.sh "$discord"

# A release refuses images that are not pinned by digest. `image/pin.sh --others` pins them; the stand-in for docker knows a
# digest of every image, and fails at anything else.
mkdir -p "$work/tree/image/kubernetes/base"
cp image/publish.sh image/pin.sh image/version.toml "$work/tree/image/"
sed 's/@sha256:[0-9a-f]*//' image/kubernetes/base/deployment.yaml >"$work/tree/image/kubernetes/base/deployment.yaml"
digest=sha256:$(printf '%064d' 7)
program "$work/bin/docker" '[ "$1 $2 $3" = "buildx imagetools inspect" ] && case $4 in ghcr.io/kbve/*) exit 1 ;; *) echo '"$digest"' ;; esac'
# A release, also while another one is rehearsed.
publish() {
	env --unset REPOSITORY --unset BUILD PATH="$work/bin:$PATH" "$work/tree/image/publish.sh" "$work/tree/out"
}
refused "a release pins every image" publish
PATH=$work/bin:$PATH "$work/tree/image/pin.sh" --others >"$work/said"
grep -q "pinned ghcr.io/qdm12/gluetun:.* to $digest" "$work/said"
[ "$(grep -c "image: .*@$digest\$" "$work/tree/image/kubernetes/base/deployment.yaml")" -eq 2 ]
grep -q 'image: ghcr.io/kbve/kasm-void:[0-9.]*$' "$work/tree/image/kubernetes/base/deployment.yaml"
refused "== build" publish
program "$work/bin/docker" 'echo not-a-digest'
sed -i 's/@sha256:[0-9a-f]*//' "$work/tree/image/kubernetes/base/deployment.yaml"
refused "is no digest" env PATH="$work/bin:$PATH" "$work/tree/image/pin.sh" --others

echo "scripts, icons and build steps are as they should be"
