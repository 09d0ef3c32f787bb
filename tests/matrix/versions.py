# SPDX-License-Identifier: GPL-2.0-or-later
"""The versions of programs and libraries in a host's root, as they say themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.testbed.run import run

_PROGRAMS = {
    "libvirt": ("libvirtd", "--version"),
    "QEMU": ("qemu-system-x86_64", "--version"),
    "Open vSwitch": ("ovs-vswitchd", "--version"),
}
_LIBRARIES = """\
import importlib.metadata, json, platform
names = {"libvirt-python": "libvirt-python", "pyroute2": "pyroute2", "python-ovs": "ovs", "lxml": "lxml"}
found = {name: importlib.metadata.version(package) for name, package in names.items()}
print(json.dumps({"Python": platform.python_version(), **found}))
"""
NAMES = (*_PROGRAMS, "Python", "libvirt-python", "pyroute2", "python-ovs", "lxml")


def seen(root: Path) -> dict[str, str]:
    """The versions by what has them, in the order of NAMES."""
    found = {}
    for name, command in _PROGRAMS.items():
        text = run("chroot", root, *command)
        told = re.search(r"\d+(\.\d+)+", text)
        found[name] = told.group() if told else "unknown"
    return {**found, **json.loads(run("chroot", root, "python3", "-c", _LIBRARIES))}
