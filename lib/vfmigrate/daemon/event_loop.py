# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's own work: what libvirt's events lead to, and a reconcile in each period.

The work that an event leads to calls libvirt and answers nobody. That for one guest is done in order; guests do not
wait for each other, since libvirt may not answer about one whose QEMU hangs. No piece sleeps: what must be tried again
is put back for later. A reconcile looks at the whole host and takes long where a part of it hangs, so it has a thread
of its own, which events do not wait for.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import itertools
import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from typing import Callable, Optional

from vfmigrate.daemon.watchdog import APART_SECONDS, RECONCILE_SECONDS, WORK_SECONDS
from vfmigrate.journal import Journal

#: one piece of work
Work = Callable[[], object]


def _unwatched(_what: str, _seconds: float) -> AbstractContextManager[object]:
    return contextlib.nullcontext()


class EventLoop:
    """Does work in threads of its own: at once, later, and one piece in every period."""

    def __init__(
        self,
        log: Journal,
        *,
        period: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        working: Callable[[str, float], AbstractContextManager[object]] = _unwatched,
    ) -> None:
        """`period` returns the seconds between two times that the periodic work is begun; `clock` counts seconds.

        `working` is entered around each piece of work, with what it is and its seconds (daemon/watchdog.py).
        """
        self._log = log
        self._working = working
        self._period = period
        self._clock = clock
        self._changed = threading.Condition()
        # due time, order of arrival, the guest and the work
        self._due: list[tuple[float, int, str, Work]] = []
        #: the work to be done now for each guest that has a thread
        self._lanes: dict[str, deque[Work]] = {}
        self._order = itertools.count()
        self._period_due = False
        self._ended = False

    def start(self, periodic: Work) -> None:
        """Begin to work; `periodic` is the work of every period."""
        threading.Thread(target=self._run, name="event-loop", daemon=True).start()
        threading.Thread(target=self._run_periods, args=(periodic,), name="reconcile", daemon=True).start()

    def stop(self) -> None:
        """Finish the work at hand and no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def soon(self, guest: str, work: Work) -> None:
        """Do a piece of work for a guest, given by UUID, after those of this guest that are due; returns at once."""
        self.later(0.0, guest, work)

    def later(self, seconds: float, guest: str, work: Work) -> None:
        """Do a piece of work for a guest after a time; returns at once."""
        with self._changed:
            heapq.heappush(self._due, (self._clock() + seconds, next(self._order), guest, work))
            self._changed.notify_all()

    def period_now(self) -> None:
        """Do the periodic work now, or once more after the one that is being done; returns at once."""
        with self._changed:
            self._period_due = True
            self._changed.notify_all()

    def apart(self, work: Work, name: str) -> None:
        """Do work that may take long in a thread of its own, with the name; returns at once."""
        self._start(lambda: self._do(work, name, APART_SECONDS), name)

    @staticmethod
    def _start(work: Work, name: str) -> None:
        try:
            threading.Thread(target=work, name=name, daemon=True).start()
        except RuntimeError:  # the kernel gives no further thread
            work()

    def _do(self, work: Work, what: str, seconds: float) -> None:
        """Do a piece of work now. What fails is logged: the next must still be done."""
        with self._working(what, seconds):
            self._log.attempt("event-loop-failed", work)

    def _run(self) -> None:
        while True:
            due = self._next()
            if due is None:
                return
            guest, work = due
            with self._changed:
                lane = self._lanes.get(guest)
                if lane is not None:
                    lane.append(work)
                    continue
                self._lanes[guest] = deque([work])
            self._start(functools.partial(self._serve, guest), "event")

    def _next(self) -> Optional[tuple[str, Work]]:
        """The next guest and work that is due, waiting for it; None at the end."""
        with self._changed:
            while not self._ended:
                now = self._clock()
                if self._due and self._due[0][0] <= now:
                    return heapq.heappop(self._due)[2:]
                self._changed.wait(self._due[0][0] - now if self._due else None)
            return None

    def _serve(self, guest: str) -> None:
        """Do the work for one guest, until there is no more."""
        while True:
            with self._changed:
                lane = self._lanes[guest]
                if not lane or self._ended:
                    del self._lanes[guest]
                    return
                work = lane.popleft()
            self._do(work, "work after an event", WORK_SECONDS)

    def _run_periods(self, periodic: Work) -> None:
        while self._await_period():
            self._do(periodic, "reconcile", RECONCILE_SECONDS)

    def _await_period(self) -> bool:
        """Wait until the periodic work is to be done; False at the end."""
        with self._changed:
            end = self._clock() + self._period()
            while not self._ended:
                left = end - self._clock()
                if self._period_due or left <= 0:
                    self._period_due = False
                    return True
                self._changed.wait(left)
            return False
