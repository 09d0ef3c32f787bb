# SPDX-License-Identifier: GPL-2.0-or-later
"""Which device nodes processes have open: read from /proc, without opening any of them.

To open a VFIO group and see whether it is free would be quicker, and wrong: only one process can open a group
(vfio_group_fops_open() in the kernel's drivers/vfio/group.c), so a QEMU that starts at that moment would fail.
"""

from __future__ import annotations

import functools
import os
import re
import stat
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Optional, Union

from vfmigrate import locks
from vfmigrate.errors import HostError
from vfmigrate.os_errors import ABSENT, failed


def holders(nodes: Iterable[str], *, proc: Path = Path("/proc"), own: Container[int] = ()) -> dict[str, int]:
    """The process ID of one process that has it open, for each of `nodes` that is open, except for processes of `own`.

    QEMU often lives in a mount namespace with a /dev of its own, so a node is recognised by its device number.
    Needs root with CAP_SYS_PTRACE; raises HostError when the files of another process cannot be read, because
    "not open" would then be a guess.
    """
    locks.may_take_long("walks through all processes")
    wanted = _identities(nodes)
    found: dict[str, int] = {}
    if not wanted:
        return found
    names = {node.rpartition("/")[2] for node in wanted.values()}
    filesystems = _Filesystems(wanted.values())
    for entry in _processes(proc):
        if entry.isdigit() and int(entry) not in own:
            for node in _held_by(f"{proc}/{entry}", wanted, names, filesystems):
                found.setdefault(node, int(entry))
    return found


def _processes(proc: Path) -> list[str]:
    try:
        return os.listdir(proc)  # noqa: PTH208  (thousands of processes: names alone are quick)
    except OSError as error:
        raise failed(f"see whether a VF is in use: read {proc}", error) from None


class _Filesystems:
    """Decides which open files can be asked for their status: those of a file system that answers by itself.

    Any user can serve a file by FUSE, name it like a VFIO group, and let a question for its status wait for ever, or
    answer it with a device number of his choice. The kernel reports the file system of an open file without asking it
    (proc_pid_fdinfo(5), proc_pid_mountinfo(5)).
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        self._nodes = nodes

    @functools.cached_property
    def _own(self) -> dict[str, str]:
        return _mounts("/proc/self")

    @functools.cached_property
    def _trusted(self) -> set[Optional[str]]:
        # /dev is a devtmpfs, QEMU's private one a tmpfs; tests have their nodes elsewhere
        return {"devtmpfs", "tmpfs", *map(self._type_of, self._nodes)} - {None}

    def _type_of(self, node: str) -> Optional[str]:
        try:
            descriptor = os.open(node, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return self._own.get(_mount_id("/proc/self", descriptor))
        finally:
            os.close(descriptor)

    def are_trusted(self, process: str, descriptor: str) -> bool:
        """Whether an open file may be asked for its status.

        A file of a mount that neither the process nor this one has, as of a namespace that is gone, may be: libvirt
        hands QEMU files that it opened elsewhere.
        """
        mount = _mount_id(process, descriptor)
        kind = _mounts(process).get(mount) or self._own.get(mount)
        return kind is None or kind in self._trusted


def _mount_id(process: str, descriptor: Union[int, str]) -> str:
    with open(f"{process}/fdinfo/{descriptor}", encoding="ascii", errors="replace") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == "mnt_id":
                return value.strip()
    return ""


def _mounts(process: str) -> dict[str, str]:
    """File system types by the mounts' IDs, as a process sees them; none of a process that has ended."""
    kinds = {}
    try:
        for line in Path(process, "mountinfo").read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            kinds[before.partition(" ")[0]] = after.partition(" ")[0]
    except OSError:
        pass
    return kinds


_Identity = tuple[bool, int, int]


def _identities(nodes: Iterable[str]) -> dict[_Identity, str]:
    identities = {}
    for node in nodes:
        try:
            identities[_identity(os.stat(node))] = node  # noqa: PTH116
        except ABSENT:  # no driver offers it, so nobody can hold it
            continue
        except OSError as error:
            raise failed(f"see whether a VF is in use: read {node}", error) from None
    return identities


def _identity(status: os.stat_result) -> _Identity:
    if stat.S_ISCHR(status.st_mode):
        return True, status.st_rdev, 0
    return False, status.st_dev, status.st_ino


def _held_by(
    process: str, wanted: dict[_Identity, str], names: set[str], filesystems: _Filesystems
) -> list[str]:
    held = []
    directory = f"{process}/fd"
    try:
        for descriptor in os.listdir(directory):  # noqa: PTH208
            path = f"{directory}/{descriptor}"
            try:
                # A status would wait for a dead file server; the link's text never does, and rules out nearly all.
                name = os.readlink(path).rpartition("/")[2]  # noqa: PTH115
                if name.removesuffix(" (deleted)") in names and filesystems.are_trusted(process, descriptor):
                    identity = _identity(os.stat(path))  # noqa: PTH116
                    if identity in wanted:
                        held.append(wanted[identity])
            except PermissionError:
                raise
            except OSError:  # closed meanwhile, or broken in some other way: not a node of VFIO's
                continue
    except (FileNotFoundError, ProcessLookupError):  # the process ended
        return []
    except PermissionError:
        raise HostError(
            f"cannot see whether a VF is in use: {directory} is closed to this process",
            "run as root with CAP_SYS_PTRACE",
        ) from None
    return held


# QEMU separates options by a comma; one in a value is doubled.
_FIRST_OPTION = re.compile(r"(?:[^,]|,,)*")


def guest_of(pid: int, *, proc: Path = Path("/proc")) -> Optional[str]:
    """The guest that a process runs, from QEMU's option `-name guest=…`; None when it runs none."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    for option, value in zip(words, words[1:]):
        if option == "-name":
            first = _FIRST_OPTION.match(value)
            name = first.group().replace(",,", ",") if first is not None else value
            return name[6:] if name.startswith("guest=") else name
    return None
