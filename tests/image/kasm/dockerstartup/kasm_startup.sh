#!/bin/bash
# A stand-in for KASM's script of this name, which is only passed as an argument.
exec "$@"
