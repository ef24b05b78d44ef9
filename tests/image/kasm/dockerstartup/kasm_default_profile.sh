#!/bin/bash
# A stand-in for KASM's script of this name: fills an empty home, then runs what it is given.
mkdir -p "$HOME/Desktop"
exec "$@"
