# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache of what is slow to make: downloads, roots, kernels, images.

It lies outside the clone, in ${XDG_CACHE_HOME:-~/.cache}/vfmigrate, so that a second clone starts warm. An
entry is a file or directory whose name ends in a key computed from everything it was made from; it is built
beside its place and renamed into it, so an entry that exists is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Union

UNUSED_DAYS = 7

# What an entry was made from: names, versions, digests of files.
Parts = Union[str, int, list["Parts"], dict[str, "Parts"]]


def directory() -> Path:
    """The cache directory of this user; it is made when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(base) / "vfmigrate"
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(parts: Parts) -> str:
    """Sixteen hexadecimal digits that change whenever any of the parts does."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(*paths: Path) -> str:
    """A digest of files, or of all the files below a directory: names and contents."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for file in files:
            total.update(f"{file.relative_to(path) if path.is_dir() else file.name}\0".encode())
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def entry(name: str, parts: Parts, build: Callable[[Path], None]) -> Path:
    """The path of the entry `name` made from `parts`; `build` makes it there when it is missing.

    Two processes (or threads) that want the same entry build it once: the second waits. Entries of the same
    name that nobody used for a week are removed when a new one is built.
    """
    base = directory()
    path = base / f"{name}-{key(parts)}"
    if not path.exists():
        with lock(name):
            if not path.exists():
                remove_leftovers(base, name)
                partial = base / f"{name}.partial"
                build(partial)
                partial.rename(path)
                expire(base, name, keep=path)
    # The time stamp of last use, which expire() reads. A directory's own time must not change under
    # overlayfs users, so it is kept in a file beside it.
    (base / f"{path.name}.used").touch()
    return path


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock `name` of the cache; it excludes other processes and other threads of this one."""
    with (directory() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(name: str) -> bool:
    """Take the lock `name` for as long as this process lives; False when another process has it."""
    return keep_lock(name, fcntl.LOCK_EX | fcntl.LOCK_NB)


def await_lock(name: str) -> None:
    """Take the lock `name` for as long as this process lives, waiting until it is free."""
    keep_lock(name, fcntl.LOCK_EX)


def keep_lock(name: str, how: int) -> bool:
    """Lock a file and leave it open."""
    descriptor = os.open(directory() / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def remove_leftovers(base: Path, name: str) -> None:
    """Remove what a build that was killed left behind. The entry's lock must be held."""
    remove(base / f"{name}.partial")


def expire(base: Path, name: str, keep: Path) -> None:
    """Remove the entries of a name, other than `keep`, that were not used lately."""
    horizon = time.time() - UNUSED_DAYS * 86400
    for stamp in base.glob(f"{name}-*.used"):
        path = stamp.with_suffix("")
        if path != keep and len(path.name) == len(name) + 17 and stamp.stat().st_mtime < horizon:
            remove(path)
            stamp.unlink()


def remove(path: Path) -> None:
    """Remove a file or a directory tree, present or not."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def log(name: str) -> Path:
    """Where the log of building an entry goes."""
    folder = directory() / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"
