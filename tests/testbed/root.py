# SPDX-License-Identifier: GPL-2.0-or-later
"""Root file systems from the distribution's packages: for the hosts and for the compiler.

Every function returns the path of a cache entry and makes it first when it is missing. Nobody writes to a
root: what must change one puts an overlay over it.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.testbed import apt, cache, modular_libvirt
from tests.testbed.cache import Parts
from tests.testbed.releases import BULLSEYE, TRIXIE, Release
from tests.testbed.run import run

# Raise when a recipe below changes in a way that its key does not show.
ROOT_RECIPE = 1
GUEST_RECIPE = 1
COMPILER_RECIPE = 1
EL_RECIPE = 1
FLOOR_RECIPE = 1

HOST_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "libvirt-daemon-system",
    "libvirt-clients",
    "libvirt-daemon-driver-qemu",
    "qemu-system-x86",
    "openvswitch-switch",
    "python3",
    "python3-libvirt",
    "python3-lxml",
    "python3-pyroute2",
    "python3-openvswitch",
    "python3-dbus",
    "python3-rich",
    "rpm",
    "iproute2",
    "kmod",
    "pciutils",
    "procps",
    "iputils-ping",
    "openssh-server",
    "tcpdump",
    "busybox-static",
    "less",
    "strace",
)

# What only the test bed and the tests with systemd need, whose hosts are of one release.
ONLY_TRIXIE = ("openssh-server", "tcpdump", "busybox-static", "less", "strace")

GUEST_PACKAGES = (
    "network-manager",
    "dbus",
    "python3",
    "python3-dbus",
    "iproute2",
    "iputils-ping",
    "procps",
)

# Beside HOST_PACKAGES, on a host as Enterprise Linux has it: login by SASL, as oVirt sets it up; NetworkManager, which
# owns the network; and SELinux with Debian's reference policy.
EL_PACKAGES = (
    "libsasl2-modules",
    "libsasl2-modules-db",
    "sasl2-bin",
    "network-manager",
    "policycoreutils",
    "selinux-policy-default",
    "selinux-policy-dev",
    "selinux-utils",
)

# Beside HOST_PACKAGES, in the root of the oldest libraries, in which the tests themselves run.
FLOOR_PACKAGES = ("python3-pytest", "python3-hypothesis", "python3-setuptools", "gcc", "libc6-dev", "make")

COMPILER_PACKAGES = (
    "gcc",
    "make",
    "libc6-dev",
    "libelf-dev",
    "bc",
    "flex",
    "bison",
    "kmod",
    "xz-utils",
    "python3-minimal",
    "rsync",
)


@functools.cache
def host_root(release: Release = TRIXIE) -> Path:
    """The root of a test host: Debian with libvirt, QEMU, Open vSwitch and the product's dependencies.

    It holds no kernel.
    """
    packages = [name for name in HOST_PACKAGES if release == TRIXIE or name not in ONLY_TRIXIE]
    parts: Parts = {"recipe": ROOT_RECIPE, "packages": dict(apt.candidates(packages, release))}
    name = "host-root" if release == TRIXIE else f"host-root-{release.name}"
    log = cache.log(name)
    return cache.entry(name, parts, lambda path: apt.bootstrap(path, packages, log, release))


@functools.cache
def floor_root() -> Path:
    """The root with the oldest libraries that vfmigrate runs with, and what the tests need to run in it."""
    packages = [name for name in (*HOST_PACKAGES, *FLOOR_PACKAGES) if name not in ONLY_TRIXIE]
    parts: Parts = {"recipe": FLOOR_RECIPE, "packages": dict(apt.candidates(packages, BULLSEYE))}
    log = cache.log("floor-root")
    return cache.entry("floor-root", parts, lambda path: apt.bootstrap(path, packages, log, BULLSEYE))


@functools.cache
def el_host_root() -> Path:
    """The root of a host like those of Enterprise Linux: libvirt's modular daemons, and login by SASL."""
    daemons = modular_libvirt.daemons()
    packages = (*HOST_PACKAGES, *EL_PACKAGES)
    parts: Parts = {
        "recipe": EL_RECIPE,
        "packages": dict(apt.candidates(packages)),
        "daemons": daemons.name,
    }
    log = cache.log("el-host-root")

    def build(path: Path) -> None:
        apt.bootstrap(path, packages, log)
        for daemon in daemons.iterdir():
            shutil.copy(daemon, path / "usr/sbin")

    return cache.entry("el-host-root", parts, build)


@functools.cache
def guest_root() -> Path:
    """The root of a guest that NetworkManager runs in; it runs as a namespace, without kernel or init."""
    parts: Parts = {"recipe": GUEST_RECIPE, "packages": dict(apt.candidates(GUEST_PACKAGES))}
    log = cache.log("guest-root")
    return cache.entry("guest-root", parts, lambda path: apt.bootstrap(path, GUEST_PACKAGES, log))


@functools.cache
def compiler_root() -> Path:
    """A root with the compiler and the headers of the hosts' kernel."""
    packages = (*COMPILER_PACKAGES, f"linux-headers-{apt.kernel().abi}")
    parts: Parts = {"recipe": COMPILER_RECIPE, "packages": dict(apt.candidates(packages))}
    log = cache.log("compiler-root")
    return cache.entry("compiler-root", parts, lambda path: apt.bootstrap(path, packages, log))


@contextmanager
def overlaid(lower: Path, work: Path) -> Iterator[Path]:
    """A writable view of a root, made in the directory `work`, which is removed afterwards."""
    cache.remove(work)
    for folder in ("upper", "work", "tree"):
        (work / folder).mkdir(parents=True)
    tree = work / "tree"
    layers = f"lowerdir={lower},upperdir={work / 'upper'},workdir={work / 'work'}"
    run("mount", "-t", "overlay", "-o", layers, "overlay", tree)
    try:
        yield tree
    finally:
        run("umount", tree)
        cache.remove(work)
