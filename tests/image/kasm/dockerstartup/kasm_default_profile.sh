#!/bin/bash
# A stand-in for KASM's script of this name: fills an empty home, then runs its arguments as a command.
mkdir -p "$HOME/Desktop"
exec "$@"
