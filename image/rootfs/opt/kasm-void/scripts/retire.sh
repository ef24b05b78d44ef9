#!/bin/bash
# retire.sh HOME KEPT: the older image copied its icons and scripts into every home. This moves them from HOME/Desktop and
# HOME/scripts to KEPT. Files that somebody has changed to do something else stay. Running it again changes nothing.
set -u

home=$1 kept=$2

# FILE|TEXT: TEXT is a line of the older image's FILE that shows what it does.
predecessor() {
	cat <<-'END'
		Desktop/CloakBrowser.desktop|Exec=/opt/cloakbrowser/cloakbrowser
		Desktop/Discord.desktop|/scripts/seed-discord-config.sh
		Desktop/LaunchURL.desktop|/scripts/launch-url.sh
		Desktop/ReloadCloak.desktop|/scripts/reload-cloak.sh
		Desktop/ResetDiscord.desktop|/scripts/reset-discord.sh
		Desktop/Terminal.desktop|Exec=xfce4-terminal
		scripts/launch-url.sh|Open URL in CloakBrowser
		scripts/reload-cloak.sh|[reload-cloak]
		scripts/reset-discord.sh|[reset-discord]
		scripts/seed-discord-config.sh|[seed-discord-config]
	END
}

failed=0
while IFS='|' read -r file does; do
	if [ ! -f "$home/$file" ] || [ -L "$home/$file" ] || ! grep -qF -- "$does" "$home/$file"; then
		continue
	fi
	mkdir -p "$kept/${file%/*}" && mv --backup=numbered "$home/$file" "$kept/$file" || failed=1
done < <(predecessor)
exit "$failed"
