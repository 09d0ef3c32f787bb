#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Build the source package, or the source package and the packages, from the work tree without what git ignores; or the
# packages from a source package:
#
#     rpm/build.sh source|all [rpmbuild's options]
#     rpm/build.sh rebuild SOURCE-PACKAGE [rpmbuild's options]
#
# They are in build/rpm afterwards, or in $RPM_OUTPUT. Two builds of one commit are identical byte for byte, wherever and
# whenever they are made: all times in them are the commit's.
set -eu
tree=$(cd "$(dirname "$0")/.." && pwd)
output=${RPM_OUTPUT:-$tree/build/rpm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/SOURCES" "$work/SRPMS" "$work/RPMS" "$output"
export LC_ALL=C TZ=UTC

prepare() { # makes tarball and spec file from the work tree
    version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' "$tree/lib/vfmigrate/version.py")
    name=vfmigrate-$version
    cd "$tree"
    export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}"
    # shellcheck disable=SC2016 # the inner shell's variable; it leaves out deleted files that git still tracks
    git ls-files -z --cached --others --exclude-standard | sort -zu |
        xargs -0 sh -c 'for file; do [ ! -f "$file" ] || printf "%s\0" "$file"; done' sh |
        tar --create --null --files-from=- --transform="flags=r;s,^,$name/," --mode=u=rwX,go=rX \
            --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" |
        gzip -9n > "$work/SOURCES/$name.tar.gz"
    sed "s/@VERSION@/$version/" rpm/vfmigrate.spec > "$work/vfmigrate.spec"
    source=$work/vfmigrate.spec
}

build() { # rpmbuild's options and the file
    rpmbuild --define "_topdir $work" \
        --define "_buildhost vfmigrate" \
        --define "use_source_date_epoch_as_buildtime 1" \
        --define "clamp_mtime_to_source_date_epoch 1" \
        "$@" > "$work/log" 2>&1 || {
        cat "$work/log" >&2
        if grep -q '^error: Failed build dependencies' "$work/log"; then
            echo "rpm/build.sh: install the build dependencies: dnf builddep $source" >&2
        fi
        exit 1
    }
}

command -v rpmbuild > /dev/null || {
    echo "rpm/build.sh: rpmbuild is missing; install it: dnf install rpm-build git" >&2
    exit 1
}
action=${1:-}
shift || true
case $action in
    source | all) prepare ;;
    rebuild)
        source=$1
        shift
        export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(rpm -qp --queryformat '%{BUILDTIME}' "$source")}"
        ;;
    *)
        sed -n 's/^#     \(rpm.*\)/usage: \1/p' "$0" >&2
        exit 2
        ;;
esac
if [ -e /etc/debian_version ]; then
    # The build dependencies are Debian packages (tests/packages.txt), which rpm does not know.
    set -- --load="$tree/rpm/debian.macros" --nodeps "$@"
fi
if [ "$action" != rebuild ]; then
    build -bs --nodeps "$@" "$source"
    source=$output/$(basename "$work"/SRPMS/*.src.rpm)
    rm -f "$output"/*.rpm
    mv "$work"/SRPMS/*.src.rpm "$output"
fi
if [ "$action" != source ]; then
    # Always from the source package: the packages name it.
    build --rebuild "$@" "$source"
    find "$work/RPMS" -name '*.rpm' -exec mv -t "$output" {} +
fi
ls "$output"/*.rpm
