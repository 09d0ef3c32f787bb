#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Make a repository for dnf of built packages:
#
#     rpm/repo.sh FOLDER URL PACKAGE...
#
# FOLDER is replaced by one with the packages, their metadata, and vfmigrate.repo, which is for /etc/yum.repos.d of hosts
# that reach FOLDER at URL. Nothing is signed.
set -eu
if [ $# -lt 3 ]; then
    sed -n 's/^#     \(rpm.*\)/usage: \1/p' "$0" >&2
    exit 2
fi
command -v createrepo_c > /dev/null || {
    echo "rpm/repo.sh: createrepo_c is missing; install it: dnf install createrepo_c" >&2
    exit 1
}
folder=$1 url=$2
shift 2
rm -rf "$folder"
mkdir -p "$folder"
cp "$@" "$folder"
createrepo_c --quiet "$folder"
cat > "$folder/vfmigrate.repo" <<END
[vfmigrate]
name=vfmigrate
baseurl=$url
enabled=1
gpgcheck=0
END
echo "$folder/vfmigrate.repo"
