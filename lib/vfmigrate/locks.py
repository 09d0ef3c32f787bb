# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks that know their place in one order, so that a test notices when two are taken the wrong way round.

Two threads that each hold what the other waits for never go on. They cannot if every thread takes locks in one order.
And while a thread holds the claims' lock, all other guests wait: it must not ask anything that may take long.
With `check(True)`, as in every test, a lock that is taken out of order raises `LockOrderError` at once, also when
no other thread is there to deadlock with, and so does a slow call under a lock that forbids it (as lockdep and
might_sleep() do in the Linux kernel). The daemon checks only where CHECKED_BY is in its environment, as in tests.
"""

from __future__ import annotations

import enum
import os
import threading
from types import TracebackType
from typing import Optional

from vfmigrate import deadline
from vfmigrate.deadline import Door

#: set in the environment of a process, it has the process check its locks
CHECKED_BY = "VFMIGRATE_CHECK_LOCKS"


class Rank(enum.IntEnum):
    """The order: a thread that holds a lock may take those of a higher rank only."""

    #: one VF, while it is converged: the slow one, held across calls of the kernel and Open vSwitch
    VF = 10
    #: the claims, while a decision is made on them: nothing that may take long is asked meanwhile
    CLAIMS = 20


class LockOrderError(AssertionError):
    """A thread takes a lock, or asks something slow, while it holds a lock that forbids it. A fault of the program."""


class _Held(threading.local):
    def __init__(self) -> None:
        self.locks: list[RankedLock] = []


_held = _Held()
_checking = CHECKED_BY in os.environ


def check(on: bool) -> None:
    """Raise LockOrderError from now on when a lock is misused, or stop doing so."""
    global _checking  # noqa: PLW0603 - a switch for the whole process, as lockdep's is
    _checking = on


def may_take_long(what: str) -> None:
    """Called by whatever may wait for the kernel, another program or a large table. `what`, in words, does it.

    Raises LockOrderError, where checked, while the thread holds the claims' lock.
    """
    if _checking:
        for lock in _held.locks:
            if lock.rank >= Rank.CLAIMS:
                raise LockOrderError(f"{what}, which may take long, while it holds the lock of {lock.name}")


class RankedLock:
    """A lock that its own thread may take again."""

    def __init__(self, rank: Rank, name: str, door: Optional[Door] = None) -> None:
        """`name` says in a LockOrderError which lock it is.

        A lock that can be held for long is a `door`: it is waited for as long as the work of this thread may take.
        """
        self.rank = rank
        self.name = name
        self._door = door
        self._lock = threading.RLock()

    def acquire(self) -> None:
        """Wait for the lock. Raises LockOrderError, where checked, under a lock of the same or a higher rank.

        Raises the door's error or deadline.OutOfTimeError when this lock is a door and the time is up.
        """
        if _checking and self not in _held.locks:
            for other in _held.locks:
                if other.rank >= self.rank:
                    raise LockOrderError(f"takes the lock of {self.name} while it holds that of {other.name}")
        if self._door is None:
            self._lock.acquire()
        else:
            with deadline.waiting(self._door, threading.TIMEOUT_MAX) as seconds:
                if not self._lock.acquire(timeout=seconds):
                    raise self._door.silent(seconds)
        _held.locks.append(self)

    def release(self) -> None:
        """Give the lock up, or one of the times that this thread took it."""
        _held.locks.remove(self)
        self._lock.release()

    def __enter__(self) -> RankedLock:
        self.acquire()
        return self

    def __exit__(
        self,
        _kind: Optional[type[BaseException]],
        _value: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        self.release()
