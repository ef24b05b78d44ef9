#!/bin/bash
# A stand-in for upstream's script, which the image keeps as discord_startup.sh.
START_COMMAND="/usr/share/discord/Discord"
exec "$START_COMMAND" --no-sandbox
