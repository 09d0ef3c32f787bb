# SPDX-License-Identifier: GPL-2.0-or-later
"""How much time is left: one value, which travels from a request to every call that can wait.

Who begins a piece of work says how long it may take:

    with deadline.within(50.0):
        ...

A door, which is a module that waits for something outside of this process, has a limit of its own for each call. It
waits for that, or for what is left of the work if that is less, and does not begin when nothing is left:

    with deadline.waiting(DOOR, 5.0) as seconds:
        ...

So the work as a whole ends in its time, however many calls it makes and however many doors hang. The value is in a
context variable: it needs no argument, and another thread does not have it, unless its work runs in a copy of the
context (contextvars), as that of vfmigrate.uninterruptible does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Optional

from vfmigrate.errors import HostError, VfmigrateError


@dataclass(frozen=True)
class Door:
    """Something outside of this process that is waited for: its name, and what to do when it does not answer."""

    name: str
    remedy: str
    #: the error when it does not answer in time
    error: type[VfmigrateError] = HostError
    #: what it did when it took too long, in words
    verb: str = "did not answer"

    def silent(self, seconds: float, what: str = "") -> VfmigrateError:
        """The error for a call that was given up after `seconds`; `what` says what it was to do."""
        text = f"{self.name} {self.verb} within {_in_words(seconds)}"
        return self.error(f"{text}: {what}" if what else text, self.remedy)


class OutOfTimeError(HostError):
    """The time of a piece of work is up, so a call was not made."""


@dataclass
class _Deadline:
    """When a piece of work must be over, in seconds of time.monotonic(), and how it spent its time."""

    end: float
    seconds: float
    waited: dict[Door, float] = field(default_factory=dict)


_current: ContextVar[Optional[_Deadline]] = ContextVar("deadline", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give the work in this context `seconds`, or what is left of the work around it if that is less."""
    outer = _current.get()
    end = time.monotonic() + seconds
    with _use(outer if outer is not None and outer.end <= end else _Deadline(end, seconds)):
        yield


@contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """Give the work in this context `seconds` also when less is left: for undoing what has run out of time."""
    outer = _current.get()
    end = time.monotonic() + seconds
    with _use(outer if outer is None or outer.end >= end else _Deadline(end, seconds)):
        yield


@contextmanager
def _use(deadline: Optional[_Deadline]) -> Iterator[None]:
    token = _current.set(deadline)
    try:
        yield
    finally:
        _current.reset(token)


def left() -> float:
    """Seconds that are left, at least 0; infinity where no one has set a limit."""
    current = _current.get()
    return float("inf") if current is None else max(0.0, current.end - time.monotonic())


@contextmanager
def waiting(door: Door, limit: float) -> Iterator[float]:
    """A call of a door: how many seconds it may wait, which is `limit` or what is left.

    Raises OutOfTimeError when nothing is left; it names the door at which the time was spent.
    """
    current = _current.get()
    if current is None:
        yield limit
        return
    begun = time.monotonic()
    if begun >= current.end:
        raise _out_of_time(door, current)
    try:
        yield min(limit, current.end - begun)
    finally:
        current.waited[door] = current.waited.get(door, 0.0) + time.monotonic() - begun


def _out_of_time(door: Door, current: _Deadline) -> OutOfTimeError:
    problem = f"no time is left to wait for {door.name}"
    slowest = max(current.waited, key=lambda each: current.waited[each], default=None)
    if slowest is None:
        return OutOfTimeError(
            f"{problem}: {_in_words(current.seconds)} were allowed", "see journalctl -u vfmigrated"
        )
    spent = f"{_in_words(current.waited[slowest])} of {_in_words(current.seconds)}"
    return OutOfTimeError(f"{problem}: {slowest.name} took {spent}", slowest.remedy)


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
