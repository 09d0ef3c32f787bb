# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread in which the daemon works of its own accord: libvirt's events, and a reconcile from time to time.

Everything that calls libvirt and answers nobody is done here, one piece after the other. No piece sleeps: what must be
tried again is put back for later.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
from contextlib import AbstractContextManager
from typing import Callable, Optional

from vfmigrate.journal import Journal

#: one piece of work
Work = Callable[[], object]


class EventLoop:
    """Does work in a thread of its own: at once, later, and one piece in every period."""

    def __init__(
        self,
        log: Journal,
        *,
        period: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        working: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """`period` returns the seconds between two times that the periodic work is begun; `clock` counts seconds.

        `working` is entered around each piece of work of the loop's own thread (daemon/watchdog.py).
        """
        self._log = log
        self._working = working
        self._period = period
        self._clock = clock
        self._changed = threading.Condition()
        # due time, order of arrival, and the work
        self._due: list[tuple[float, int, Work]] = []
        self._order = itertools.count()
        self._ended = False

    def start(self, periodic: Work) -> None:
        """Begin to work; `periodic` is the work of every period."""
        threading.Thread(target=self._run, args=(periodic,), name="event-loop", daemon=True).start()

    def stop(self) -> None:
        """Finish the work at hand and no more."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def soon(self, work: Work) -> None:
        """Do a piece of work after those that are due already; returns at once."""
        self.later(0.0, work)

    def later(self, seconds: float, work: Work) -> None:
        """Do a piece of work after a time; returns at once."""
        with self._changed:
            heapq.heappush(self._due, (self._clock() + seconds, next(self._order), work))
            self._changed.notify()

    def apart(self, work: Work, name: str) -> None:
        """Do work that may take long in a thread of its own, with the name; returns at once."""
        threading.Thread(target=self.do, args=(work,), name=name, daemon=True).start()

    def do(self, work: Work) -> None:
        """Do a piece of work now. What fails is logged: the next must still be done."""
        self._log.attempt("event-loop-failed", work)

    def _run(self, periodic: Work) -> None:
        # A deadline, and no pause without work: events that follow each other closely must not put it off for ever.
        next_period = self._clock() + self._period()
        while True:
            work = self._next(periodic, next_period)
            if work is None:
                return
            with self._working():
                self.do(work)
            if work is periodic:
                next_period = self._clock() + self._period()

    def _next(self, periodic: Work, next_period: float) -> Optional[Work]:
        """The next work that is due, waiting for it; None at the end."""
        with self._changed:
            while not self._ended:
                now = self._clock()
                if now >= next_period:
                    return periodic
                if self._due and self._due[0][0] <= now:
                    return heapq.heappop(self._due)[2]
                until = min(next_period, self._due[0][0] if self._due else next_period)
                self._changed.wait(until - now)
            return None
