# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's modular daemons, which Debian does not package: built once from Debian's source package of libvirt.

Enterprise Linux and Fedora run virtqemud, virtnetworkd and their siblings in place of libvirtd. The same source makes
both; the drivers that the daemons load, and the library, are those of Debian's packages, which have to be of exactly
the same version.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from tests.testbed import apt, cache
from tests.testbed.run import run

RECIPE = 1
BUILD_PACKAGES = (
    "bison",
    "gcc",
    "gettext",
    "libacl1-dev",
    "libapparmor-dev",
    "libattr1-dev",
    "libaudit-dev",
    "libblkid-dev",
    "libc6-dev",
    "libcap-ng-dev",
    "libglib2.0-dev",
    "libgnutls28-dev",
    "libjson-c-dev",
    "libnl-3-dev",
    "libnl-route-3-dev",
    "libnuma-dev",
    "libpciaccess-dev",
    "libsasl2-dev",
    "libselinux1-dev",
    "libtirpc-dev",
    "libudev-dev",
    "libxml2-dev",
    "libxml2-utils",
    "meson",
    "ninja-build",
    "patch",
    "pkg-config",
    "python3-docutils",
    "xsltproc",
    "xz-utils",
)

DAEMONS = ("virtqemud", "virtnetworkd", "virtnodedevd", "virtproxyd")

# The places are those that Debian's rules file sets, and the features those without which a daemon would act otherwise
# than the library that it is linked with.
_BUILD = """\
set -e
cd "$1"
for archive in *.orig.tar.* *.debian.tar.*; do tar -xf "$archive"; done
mv debian libvirt-*/
cd libvirt-*/
grep -v '^#' debian/patches/series | while read -r patch; do
    [ -z "$patch" ] || patch -s -p1 -i "debian/patches/$patch"
done
CFLAGS="-O1 -Wno-error" meson setup build --auto-features=disabled --prefix=/usr --libdir=lib/x86_64-linux-gnu \
    --sysconfdir=/etc --localstatedir=/var --libexecdir=/usr/lib/libvirt -Drunstatedir=/run -Dinitconfdir=/etc/default \
    -Dunitdir=/usr/lib/systemd/system -Dinit_script=systemd -Ddocs=disabled -Dtests=disabled \
    -Dqemu_user=libvirt-qemu -Dqemu_group=libvirt-qemu \
    -Ddriver_libvirtd=enabled -Ddriver_remote=enabled -Ddriver_qemu=enabled -Ddriver_network=enabled -Dsasl=enabled \
    -Dpolkit=enabled -Dudev=enabled -Dpciaccess=enabled -Dcapng=enabled -Dlibnl=enabled -Djson_c=enabled \
    -Dselinux=enabled -Dapparmor=enabled -Dattr=enabled -Dnumactl=enabled -Daudit=enabled -Dblkid=enabled
shift
for daemon; do set -- "$@" "src/$daemon"; shift; done
ninja -C build "$@"
"""


@functools.cache
def daemons() -> Path:
    """The directory with the daemons' programs; some three minutes when they have to be built."""
    version = apt.candidates(["libvirt0"])["libvirt0"]
    # the compiler's own version changes nothing that a test could see: it is no part of the key
    return cache.entry(
        "modular-libvirt", [RECIPE, version, list(DAEMONS), _BUILD], lambda path: _build(path, version)
    )


def _build(path: Path, version: str) -> None:
    work = cache.directory() / "modular-libvirt.work"
    cache.remove(work)
    root, log = work / "root", cache.log("modular-libvirt")
    work.mkdir()
    try:
        apt.bootstrap(root, BUILD_PACKAGES, log)
        source = root / "build"
        source.mkdir()
        apt.download_source("libvirt", version, source)
        script = 'mount -t proc proc "$1/proc" && exec chroot "$@"'
        unshare = ("unshare", "--mount", "--propagation", "private")
        run(*unshare, "sh", "-c", script, "sh", root, "sh", "-c", _BUILD, "sh", "/build", *DAEMONS, log=log)
        path.mkdir()
        for daemon in DAEMONS:
            (built,) = source.glob(f"libvirt-*/build/src/{daemon}")
            shutil.copy(built, path)
    finally:
        cache.remove(work)
