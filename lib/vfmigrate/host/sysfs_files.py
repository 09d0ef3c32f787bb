# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of sysfs: read and written with one system call each, with errors that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Callable, Optional, TypeVar

from vfmigrate import locks, uninterruptible
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError
from vfmigrate.os_errors import ABSENT, AnyPath, exists, failed

__all__ = [
    "AnyPath",
    "bounded",
    "exists",
    "link_name",
    "names",
    "read_bytes",
    "read_held",
    "read_text",
    "write_text",
]

T = TypeVar("T")

_REMEDIES = {
    errno.EPERM: "run as root; a kernel in lockdown mode refuses this to everyone",
    errno.EROFS: "sysfs is mounted read-only here: see ProtectKernelTunables= of the service",
    errno.ENOENT: "the device or driver is gone",
    errno.ENODEV: "the device is gone, or has another driver now",
}

_KERNEL = Door("the kernel", "see journalctl -k for what its driver is doing")
# A driver can take minutes to create hundreds of VFs.
_WRITE_SECONDS = 300.0
_READ_SECONDS = 10.0


def read_bytes(path: AnyPath, count: int = -1) -> bytes:
    """The first `count` bytes of a file, or all of it. Raises HostError."""
    try:
        # Configuration space is slow to read: read no more than wanted.
        with open(path, "rb", buffering=0) as file:
            return file.read(count)
    except OSError as error:
        raise _unreadable(path, error) from None


def read_text(path: AnyPath) -> str:
    """The text of a file, without white space around it. Raises HostError."""
    return read_bytes(path).decode(errors="replace").strip()


def bounded(what: str, function: Callable[..., T], *arguments: object) -> T:
    """What `function` returns, given up after seconds: it reads what the kernel may not show before a driver has ended.

    Most attributes are shown at once. These wait: driver_override and sriov_numvfs for the device's lock, which the
    kernel holds while it binds or unbinds a driver, or creates VFs (drivers/pci/pci-sysfs.c and iov.c); configuration
    space for the end of a reset (drivers/pci/access.c). A driver that is stuck there would keep the daemon as well.
    `what` says in the error what was to be read. Raises HostError, and what `function` raises.
    """
    locks.may_take_long(f"waits for the kernel to {what}")
    return uninterruptible.call(_KERNEL, _READ_SECONDS, function, *arguments, what=what)


def read_held(path: AnyPath) -> str:
    """As `read_text`, of an attribute for which the kernel takes the device's lock; given up after seconds."""
    return bounded(f"read {path}", read_text, path)


def write_text(path: AnyPath, text: str, remedies: Mapping[int, str] = MappingProxyType({})) -> None:
    """Write a file that exists. Raises HostError, with the remedy for the errno from `remedies` if it has one."""
    locks.may_take_long("writes to sysfs")
    what = f"write '{text.strip()}' to {path}"
    try:
        uninterruptible.call(_KERNEL, _WRITE_SECONDS, _write, path, text, what=what)
    except OSError as error:
        raise failed(what, error, {**_REMEDIES, **remedies}) from None


def _write(path: AnyPath, text: str) -> None:
    """In a single write() and without creating the file: each write is a command to the kernel."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def link_name(path: AnyPath) -> Optional[str]:
    """The name that a link points to; None when there is no such link. Raises HostError where that cannot be seen."""
    try:
        return os.readlink(path).rpartition("/")[2]  # noqa: PTH115
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from None


def names(directory: AnyPath) -> Sequence[str]:
    """The names in a directory; empty when it does not exist. Raises HostError where it cannot be read."""
    try:
        return os.listdir(directory)  # noqa: PTH208
    except ABSENT:
        return ()
    except OSError as error:
        raise _unreadable(directory, error) from None


def _unreadable(path: AnyPath, error: OSError) -> HostError:
    return failed(f"read {path}", error, _REMEDIES)
