#!/bin/bash
# open.sh URL: opens URL in the shared browser, or says why not. It uses the launcher. If the launcher does not run, it uses
# the browser's own command line, after the same policy has judged the URL.
set -u

said=$(kasm-void open "$1" 2>&1)
code=$?
if [ "$code" -ne 3 ]; then
	printf '%s\n' "$said"
	exit "$code"
fi

# "allowed URL ADDRESS…": use the URL as the policy read it, not as it was typed.
if ! verdict=$(kasm-void check-url "$1" 2>&1); then
	printf '%s\n' "$verdict"
	exit 1
fi
read -r _ url _ <<<"$verdict"
exec kasm-void show cloakbrowser "$url"
