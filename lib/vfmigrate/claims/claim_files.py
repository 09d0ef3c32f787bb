# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of the claims: one directory with one owner, and files that are there whole or not at all.

Knows file names and text; what the text means is for `claim_store`. Each failure names the host, the file and the
remedy for the kernel's reason, because a claim that cannot be written is refused on one host and read on another.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Union

from vfmigrate.errors import HostError, InputError
from vfmigrate.text import quoted

_SUFFIX = ".json"
_LOCK = ".lock"
#: larger than any claim
_MOST_BYTES = 65536


def _remedy(error: OSError, directory: Path) -> str:
    """What to do about an error of a file in the directory; the command works as printed on this host."""
    number = error.errno
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"make room on its file system: see df -h {directory} and df -i {directory}"
    if number == errno.EROFS:
        return f"make its file system writable: see findmnt -T {directory}; then run: vfmigrate reconcile"
    if number == errno.EPERM:
        return f"run: chattr -R -i -a {directory}; then run: vfmigrate reconcile"
    if number == errno.EACCES:
        return f"see ls -ldZ {directory}, and ausearch -m avc for SELinux; then run: vfmigrate reconcile"
    return f"see dmesg and ls -la {directory}; then run: vfmigrate reconcile"


def failure(what: str, path: Path, error: OSError) -> HostError:
    """The error for an administrator: the host, what failed, the file, the kernel's reason and the remedy."""
    reason = os.strerror(error.errno or 0)
    return HostError(f"{socket.gethostname()}: {what}: {path}: {reason}", _remedy(error, path.parent))


class ClaimFiles:
    """The directory of the claims, owned as long as this object is not closed.

    Raises HostError when the directory cannot be used or has another owner.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._make_directory()
        self._owner = self._become_owner()

    def close(self) -> None:
        """Give up the directory, so that another daemon may own it."""
        os.close(self._owner)

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._directory.lstat()
        except OSError as error:
            raise failure("cannot make the directory of the claims", self._directory, error) from None
        if stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise HostError(
                f"{self._directory} is not a directory that only this user can write",
                f"remove it: rm -r {quoted(self._directory)}",
            )

    def _become_owner(self) -> int:
        path = self._directory / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise HostError(f"{path} is not a file", f"remove it: rm -r {quoted(path)}") from None
            raise failure("cannot take the lock of the claims", path, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise HostError(
                f"another vfmigrated already owns {self._directory}", "see systemctl status vfmigrated"
            ) from None
        return descriptor

    # -- reading, at the start

    def load(self) -> Iterator[tuple[str, Union[str, InputError]]]:
        """Each file's name, without its ending, with its text, or with why it cannot be read.

        Removes what an interrupted write has left. Raises HostError when the directory cannot be listed.
        """
        try:
            paths = sorted(self._directory.iterdir())
        except OSError as error:
            raise failure("cannot list the claims", self._directory / _LOCK, error) from None
        for path in paths:
            if path.suffix == ".new":
                with contextlib.suppress(OSError):  # the next write of this claim replaces it
                    path.unlink()
            if path.suffix != _SUFFIX:
                continue
            try:
                yield path.stem, _read(path)
            except InputError as error:
                yield path.stem, error

    def set_aside(self, name: str) -> None:
        """Rename a file that is no claim, so that it is not read again; where that fails, it stays."""
        path = self._path(name)
        with contextlib.suppress(OSError):
            path.rename(path.with_suffix(".broken"))

    # -- writing

    def write(self, name: str, text: str) -> None:
        """Replace a file. Raises HostError when that fails; then the file is as before."""
        path = self._path(name)
        new = path.with_suffix(".new")
        try:
            descriptor = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            new.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise failure(f"cannot write the claim on {name}", path, error) from None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises HostError when that fails."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise failure(f"cannot remove the claim on {name}", path, error) from None

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}{_SUFFIX}"


def _read(path: Path) -> str:
    try:
        # Not waiting: a FIFO of this name would be waited for until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise InputError("the claim is no file")
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        raise InputError(os.strerror(error.errno or 0)) from None
