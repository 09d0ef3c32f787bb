# SPDX-License-Identifier: GPL-2.0-or-later
"""What the hosts and guests are made of: roots, kernels, the host's disk image and initrd.

Every function returns the path of a cache entry and makes it first when it is missing.
"""

from __future__ import annotations

from pathlib import Path

from tests.testbed import apt, cache
from tests.testbed.cache import Parts

# Raise when a recipe below changes in a way that its keys do not show.
ROOT_RECIPE = 1
COMPILER_RECIPE = 1

HOST_PACKAGES = [
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
]

COMPILER_PACKAGES = [
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
]


def log_path(name: str) -> Path:
    """Where the log of a build step goes."""
    folder = cache.directory() / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"


def host_root() -> Path:
    """The root of a test host: Debian with libvirt, QEMU, Open vSwitch and the product's dependencies.

    Read-only by agreement: whoever wants to change it puts an overlay over it. It holds no kernel.
    """
    parts: Parts = {"recipe": ROOT_RECIPE, "packages": dict(apt.candidates(HOST_PACKAGES))}
    return cache.entry(
        "host-root", parts, lambda path: apt.bootstrap(path, HOST_PACKAGES, log_path("host-root"))
    )


def compiler_root() -> Path:
    """A root with the compiler and the headers of the hosts' kernel."""
    packages = [*COMPILER_PACKAGES, f"linux-headers-{apt.kernel().abi}"]
    parts: Parts = {"recipe": COMPILER_RECIPE, "packages": dict(apt.candidates(packages))}
    return cache.entry(
        "compiler-root", parts, lambda path: apt.bootstrap(path, packages, log_path("compiler-root"))
    )
