#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Install what tests/packages.txt names and this machine lacks; silent and quick when nothing is missing.
set -eu
list=$(sed 's/#.*//' "$(dirname "$0")/packages.txt" | tr -s ' \n' ' ')
missing=
for package in $list; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get -q update >&2
# shellcheck disable=SC2086 # a list of package names
apt-get -q -y --no-install-recommends install $missing >&2
