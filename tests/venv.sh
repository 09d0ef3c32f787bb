#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Print the path of the virtual environment for tests and linters; make it first if it is not there.
# It lives in the cache directory under a name made from its requirements, so that every clone shares it.
# Another file of requirements beside this script may be named.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/${1:-requirements.txt}
base=/usr/bin/python3
key=$({ "$base" --version; cat "$requirements"; } | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vfmigrate
venv=$cache/venv-$key
if [ ! -e "$venv/complete" ]; then
    mkdir -p "$cache"
    exec 9>"$cache/venv.lock"
    flock 9
    if [ ! -e "$venv/complete" ]; then
        echo "making the test environment in $venv" >&2
        rm -rf "$venv"
        "$base" -m venv "$venv" >&2
        "$venv/bin/pip" -q install -r "$requirements" >&2
        touch "$venv/complete"
    fi
fi
echo "$venv"
