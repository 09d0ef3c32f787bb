# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that nothing can interrupt, such as those of libvirt's library or a write to sysfs: given up after their time.

Each is made in a thread of its own, which the caller waits for. A call that takes longer than it may is given up: its
thread stays until the call returns, and its result is dropped. Such threads are counted, and a door with too many of
them is not called any more until some return: a service that hangs for a day costs a bounded number of threads.

What was given up can still take effect later. Callers look before they act, so the next reconcile finds that.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from contextvars import Context, copy_context
from typing import Any, Callable, Optional, TypeVar

from vfmigrate import deadline
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError, VfmigrateError

#: calls of one door that may hang at the same time; further ones fail at once
MOST_HUNG = 32
_MOST_IDLE = 8

T = TypeVar("T")


class _Call:
    """One call, and its result."""

    def __init__(self, door: Door, function: Callable[[], Any]) -> None:
        self.door = door
        self._function = function
        self._context: Context = copy_context()
        self._result: Any = None
        self._error: Optional[BaseException] = None
        self.returned = threading.Event()
        self.given_up = False

    def make(self) -> None:
        """Make the call, in whatever thread this is."""
        try:
            self._result = self._context.run(self._function)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._error = error

    def result(self) -> Any:
        """What the call returned. Raises what it raised."""
        if self._error is None:
            return self._result
        try:
            raise self._error
        finally:
            self._error = None  # else the error, its traceback and this frame keep each other


_lock = threading.Lock()
#: where the idle threads wait for a call
_idle: list[queue.SimpleQueue[_Call]] = []
_hung: Counter[str] = Counter()


def hung() -> dict[str, int]:
    """How many calls of each door were given up and have not returned."""
    with _lock:
        return {name: count for name, count in sorted(_hung.items()) if count}


def problem() -> Optional[VfmigrateError]:
    """The calls that were given up and have not returned, as an error; None when there are none."""
    counts = hung()
    if not counts:
        return None
    named = ", ".join(f"{count} of {name}" for name, count in counts.items())
    return HostError(f"calls that were given up have not returned: {named}", "see journalctl -u vfmigrated")


def call(door: Door, limit: float, function: Callable[..., T], *arguments: Any, what: str = "") -> T:
    """What `function` returns, called in another thread; `limit` in seconds, and no longer than the work may take.

    `what` says in the door's error what the call was to do. Raises what `function` raises, the door's error when it
    does not return in time or too many calls hang, and deadline.OutOfTimeError.
    """
    with deadline.waiting(door, limit) as seconds:
        made = _Call(door, lambda: function(*arguments))
        _begin(made)
        if not made.returned.wait(seconds) and _give_up(made):
            raise door.silent(seconds, what)
    result: T = made.result()
    return result


def _begin(made: _Call) -> None:
    door = made.door
    with _lock:
        count = _hung[door.name]
        if count >= MOST_HUNG:
            raise door.error(f"{count} calls of {door.name} have not returned", door.remedy)
        calls = _idle.pop() if _idle else None
    if calls is None:
        calls = queue.SimpleQueue()
        try:
            threading.Thread(target=_serve, args=(calls,), name="call", daemon=True).start()
        except RuntimeError:
            raise HostError(
                "the kernel refuses vfmigrated another thread", "see TasksMax= of vfmigrated.service"
            ) from None
    calls.put(made)


def _give_up(made: _Call) -> bool:
    """Give a call up; False when it has just returned."""
    with _lock:
        if made.returned.is_set():
            return False
        made.given_up = True
        _hung[made.door.name] += 1
        return True


def _serve(calls: queue.SimpleQueue[_Call]) -> None:
    """Make one call after the other, in a thread of its own, until there are enough other idle threads."""
    while True:
        made = calls.get()
        made.make()
        with _lock:
            made.returned.set()
            if made.given_up:
                _hung[made.door.name] -= 1
            enough = len(_idle) >= _MOST_IDLE
            if not enough:
                _idle.append(calls)
        del made
        if enough:
            return
