# SPDX-License-Identifier: GPL-2.0-or-later
"""Shows systemd that the daemon is alive, and stops showing it when a thread of the daemon stands still.

systemd ends a service that is silent for WatchdogSec= and starts it again (systemd.service(5)): claims are files, and
hooks that wait ask the new daemon. A process that does nothing but send a heartbeat proves little. So each piece of
work says how long it may take. The doors keep to that (deadline), so it fails in time where something outside hangs;
and the heartbeat pauses while a piece is overdue in spite of that, which is a fault of the daemon.
"""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Callable, Optional

from vfmigrate import deadline, journal
from vfmigrate.journal import Journal

#: seconds for an event of a guest: with what cleaning up may take (reservations/cleanup.py), less than the hook waits
#: for its answer (PATIENCE in hooks/qemu)
EVENT_SECONDS = 50.0
#: seconds for any other request: less than a client waits (rpc/protocol.py)
REQUEST_SECONDS = 50.0
#: seconds for provisioning, in which a card may take minutes to create its VFs
PROVISION_SECONDS = 1800.0
#: seconds for a reconcile; what is left over, the next one does
RECONCILE_SECONDS = 300.0
#: seconds for any other work of the event loop
WORK_SECONDS = 60.0
#: seconds for work that waits for a guest, in a thread of its own
APART_SECONDS = 180.0
#: seconds after its end that work is overdue: it may have had to clean up, and the machine may be busy
OVERDUE_SECONDS = 60.0


def notify(state: str) -> None:
    """Send a state to systemd (sd_notify(3)); nothing where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        try:
            notifier.setblocking(False)
            notifier.connect("\0" + address[1:] if address.startswith("@") else address)
            notifier.send(state.encode())
        except OSError:
            pass


def interval(environment: Mapping[str, str]) -> Optional[float]:
    """Seconds between two heartbeats, by what systemd asks for (sd_watchdog_enabled(3)); None when it asks for none."""
    text = environment.get("WATCHDOG_USEC", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 1e6 / 3


class Watchdog:
    """Knows what the daemon's threads work on, and sends the heartbeat."""

    def __init__(
        self,
        log: Journal,
        *,
        send: Callable[[str], None] = notify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._send = send
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        #: work under way: what it is, and when it should be over
        self._working: dict[int, tuple[str, float]] = {}
        self._reported: set[int] = set()
        self._stop = threading.Event()

    def start(self) -> None:
        """Send a heartbeat from now on, if systemd wants one."""
        seconds = interval(os.environ)
        if seconds is not None:
            threading.Thread(target=self._beat, args=(seconds,), name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """Send no more."""
        self._stop.set()

    @contextlib.contextmanager
    def working(self, what: str, seconds: float) -> Iterator[None]:
        """A piece of work of this thread, which may take `seconds`: the doors keep to that (deadline)."""
        number = next(self._numbers)
        with self._lock:
            self._working[number] = (what, self._clock() + seconds + OVERDUE_SECONDS)
        try:
            with deadline.within(seconds):
                yield
        finally:
            with self._lock:
                del self._working[number]
                self._reported.discard(number)

    def beat(self) -> bool:
        """Send one heartbeat, unless work is overdue; that is logged once. Returns whether it was sent."""
        now = self._clock()
        with self._lock:
            overdue = {number: what for number, (what, due) in self._working.items() if due < now}
            new = [what for number, what in overdue.items() if number not in self._reported]
            self._reported |= set(overdue)
        if new:
            self._log.event(
                "hang",
                f"{', '.join(sorted(new))}: not finished in time; systemd restarts vfmigrated if this lasts",
                level=journal.ERROR,
            )
            with contextlib.suppress(OSError, ValueError):  # no file behind standard error, as in a test
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if not overdue:
            self._send("WATCHDOG=1")
        return not overdue

    def _beat(self, seconds: float) -> None:
        while not self._stop.wait(seconds):
            self.beat()
