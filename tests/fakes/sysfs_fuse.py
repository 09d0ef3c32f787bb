# SPDX-License-Identifier: GPL-2.0-or-later
"""A FUSE file system that is the machine's sysfs with a fake card plugged in.

The entries of `sysfs_tree` come from the card, and writing to them changes it. They hide the real entries of the same
path, and all of the real PCI bus and IOMMU groups. Everything else is the kernel's, read-only: a program in a namespace
host finds its CPUs and links there. As in sysfs, each write is one operation, truncation has no meaning, and opening a
file for an operation that it lacks is refused.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, Optional, Union

from mfusepy import FUSE, FuseOSError, Operations

from tests.fakes import sysfs_tree
from tests.fakes.card import Card
from tests.fakes.sysfs_tree import Directory, File, Link

# The machine's own PCI devices do not show.
REPLACED = re.compile(r"/(bus/pci|kernel/iommu_groups|devices/pci[^/]*)(/|$)")
# Files that only take writes (0200 in the kernel: BUS_ATTR_WO, DRIVER_ATTR_WO).
WRITE_ONLY = ("bind", "unbind", "new_id", "drivers_probe", "sriov_vf_msix_count")
ATTRIBUTE_SIZE = 4096


class _Picture:
    """The card's entries at one moment, with the directories that lead to them."""

    def __init__(self, tree: sysfs_tree.Tree) -> None:
        self._tree = tree
        self._children: dict[str, set[str]] = {}
        for path in tree:
            child = path
            while child:
                parent, _, name = child.rpartition("/")
                self._children.setdefault(parent, set()).add(name)
                child = parent

    def entry(self, path: str) -> Optional[Union[File, Link, Directory]]:
        key = path.strip("/")
        return self._tree.get(key) or (Directory() if key in self._children else None)

    def children(self, path: str) -> set[str]:
        return self._children.get(path.strip("/"), set())


class Sysfs(Operations):  # type: ignore[misc]  # mfusepy is not typed
    """Answers the kernel's questions about the file system; `real` is a directory of the real sysfs."""

    use_ns = True

    def __init__(self, card: Card, real: str, ready: Callable[[], None]) -> None:
        self._card = card
        self._real = real
        self._ready = ready
        self._changes = -1
        self._last = _Picture({})

    def init(self, path: str) -> None:  # noqa: ARG002
        """Report that the file system is mounted, at the kernel's first request."""
        self._ready()

    def _picture(self) -> _Picture:
        changes = len(self._card.trace)
        if changes != self._changes:
            self._last = _Picture(sysfs_tree.tree(self._card))
            self._changes = changes
        return self._last

    def _beneath(self, path: str) -> str:
        """The real path of an entry that is not the card's; ENOENT where only the card has entries."""
        if REPLACED.match(path):
            raise FuseOSError(errno.ENOENT)
        return self._real + path

    def getattr(self, path: str, fh: Optional[int] = None) -> dict[str, Any]:  # noqa: ARG002
        """What lstat(2) tells."""
        entry = self._picture().entry(path)
        if entry is None:
            found = os.lstat(self._beneath(path))
            names = ("st_mode", "st_nlink", "st_size", "st_uid", "st_gid")
            return {name: getattr(found, name) for name in names}
        size = len(entry.target) if isinstance(entry, Link) else ATTRIBUTE_SIZE
        return {"st_mode": _mode(path, entry), "st_nlink": 1, "st_size": size, "st_uid": 0, "st_gid": 0}

    def readdir(self, path: str, fh: int) -> Iterable[str]:  # noqa: ARG002
        """The names of a directory, the card's and the machine's."""
        names = {".", "..", *self._picture().children(path)}
        try:
            names.update(each.name for each in Path(self._beneath(path)).iterdir())
        except OSError:
            if len(names) == 2 and self._picture().entry(path) is None:
                raise
        return names

    def readlink(self, path: str) -> str:
        """Tell the target of a symbolic link."""
        entry = self._picture().entry(path)
        return entry.target if isinstance(entry, Link) else os.fspath(Path(self._beneath(path)).readlink())

    def open(self, path: str, flags: int) -> int:
        """Allow or refuse to open: kernfs lets not even root open a file for what it has no method for."""
        entry = self._picture().entry(path)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        if isinstance(entry, File):
            mode = _mode(path, entry)
            if (writing and not mode & stat.S_IWUSR) or (
                flags & os.O_ACCMODE != os.O_WRONLY and not mode & stat.S_IRUSR
            ):
                raise FuseOSError(errno.EACCES)
        elif writing:
            raise FuseOSError(errno.EACCES)
        return 0

    def truncate(self, path: str, length: int, fh: Optional[int] = None) -> int:  # noqa: ARG002
        """Nothing: O_TRUNC has no meaning in sysfs."""
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        """The content of a file, see pread(2)."""
        entry = self._picture().entry(path)
        if isinstance(entry, File):
            return entry.content[offset : offset + size]
        descriptor = os.open(self._beneath(path), os.O_RDONLY)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:  # noqa: ARG002
        """Take one write, which is one call of the attribute's store method."""
        sysfs_tree.write(self._card, path.lstrip("/"), data.decode(errors="surrogateescape"))
        return len(data)


def _mode(path: str, entry: Union[File, Link, Directory]) -> int:
    if isinstance(entry, Directory):
        return stat.S_IFDIR | 0o755
    if isinstance(entry, Link):
        return stat.S_IFLNK | 0o777
    if path.rsplit("/", 1)[1] in WRITE_ONLY:
        return stat.S_IFREG | 0o200
    return stat.S_IFREG | (0o644 if entry.writable else 0o444)


def serve(card: Card, mount_point: Path, ready: Callable[[], None]) -> None:
    """Mount the file system over the real sysfs at `mount_point` and serve it until it is unmounted.

    `ready` is called once it is mounted.
    """
    beneath = os.open(mount_point, os.O_PATH | os.O_DIRECTORY)
    FUSE(
        Sysfs(card, f"/proc/self/fd/{beneath}", ready),
        os.fspath(mount_point),
        foreground=True,
        # The kernel serialises little of this, but a card change and its netdevs are one step.
        nothreads=True,
        allow_other=True,
        direct_io=True,
        # No caching: writes to some files make others appear and vanish.
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
        fsname="sysfs",
    )
