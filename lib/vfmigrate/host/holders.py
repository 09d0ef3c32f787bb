# SPDX-License-Identifier: GPL-2.0-or-later
"""Which device nodes are held open, and by whom: a walk over /proc that touches none of them.

Opening a VFIO group to see whether it is free would be quicker, and wrong: a group opens for one process only
(vfio_group_fops_open() in the kernel's drivers/vfio/group.c), so the look itself could make a starting QEMU fail.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from vfmigrate.errors import HostError


def holders(nodes: Iterable[Path], *, proc: Path = Path("/proc")) -> dict[Path, int]:
    """Tell for each of `nodes` that is held open the process ID of one that holds it.

    QEMU often lives in a mount namespace with a /dev of its own, so a node is recognised by its device number.
    Needs root with CAP_SYS_PTRACE; raises HostError where another process cannot be looked into, because "not
    held" would then be a guess.
    """
    wanted = _identities(nodes)
    found: dict[Path, int] = {}
    if not wanted:
        return found
    names = {node.name for node in wanted.values()}
    for entry in os.listdir(proc):  # noqa: PTH208  (thousands of processes: names alone are quick)
        if entry.isdigit():
            for node in _held_by(f"{proc}/{entry}/fd", wanted, names):
                found.setdefault(node, int(entry))
    return found


_Identity = tuple[bool, int, int]


def _identities(nodes: Iterable[Path]) -> dict[_Identity, Path]:
    identities = {}
    for node in nodes:
        try:
            identities[_identity(os.stat(node))] = node  # noqa: PTH116
        except FileNotFoundError:  # no driver offers it, so nobody can hold it
            continue
    return identities


def _identity(status: os.stat_result) -> _Identity:
    if stat.S_ISCHR(status.st_mode):
        return True, status.st_rdev, 0
    return False, status.st_dev, status.st_ino


def _held_by(directory: str, wanted: dict[_Identity, Path], names: set[str]) -> list[Path]:
    held = []
    try:
        for descriptor in os.listdir(directory):  # noqa: PTH208
            path = f"{directory}/{descriptor}"
            try:
                # A status would wait for a dead file server; the link's text never does, and rules out nearly all.
                name = os.readlink(path).rpartition("/")[2]  # noqa: PTH115
                if name.removesuffix(" (deleted)") in names:
                    identity = _identity(os.stat(path))  # noqa: PTH116
                    if identity in wanted:
                        held.append(wanted[identity])
            except FileNotFoundError:  # closed meanwhile
                continue
    except (FileNotFoundError, ProcessLookupError):  # the process ended
        return []
    except PermissionError:
        raise HostError(
            f"cannot see whether a VF is in use: {directory} is closed to this process",
            "run as root with CAP_SYS_PTRACE",
        ) from None
    return held


def guest_of(pid: int, *, proc: Path = Path("/proc")) -> Optional[str]:
    """Name the guest that a process runs, by QEMU's option `-name guest=…`; None when it is no such process."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    for option, value in zip(words, words[1:]):
        if option == "-name":
            first = value.split(",")[0]
            return first[6:] if first.startswith("guest=") else first
    return None
