# SPDX-License-Identifier: GPL-2.0-or-later
"""How long a guest does not run its program: emulated twice, it is busy for long when a device is plugged in or out."""

from __future__ import annotations

import threading
import time

from tests.testbed import expect
from tests.testbed.guest import Guest

# By how much the peer's silence may exceed libvirt's downtime, or the time in which the guest did nothing at all, when
# a device is plugged in or out meanwhile: the guest answers nobody until it has processed that.
ALLOWED_MS = 20_000


class Life:
    """Watches a guest's ticks: how long it did nothing at all, whatever the network did."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._stop = threading.Event()
        self._longest = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        ticks, since = self._guest.ticks(), time.monotonic()
        while not self._stop.wait(0.1):
            now, seen = time.monotonic(), self._guest.ticks()
            self._longest = max(self._longest, now - since)
            if seen != ticks:
                ticks, since = seen, now

    def stop(self) -> float:
        """Stop watching; returns the longest time between two ticks, in ms."""
        self._stop.set()
        self._thread.join()
        return self._longest * 1000


def expect_answers(silence_ms: float, downtime_ms: float, idle_ms: float) -> None:
    """Expect the guest, not the network, to be the cause of the peer's longest silence: it was paused or busy."""
    expect.that(
        silence_ms <= max(downtime_ms, idle_ms) + ALLOWED_MS,
        f"the guest was silent for {silence_ms:.0f} ms; libvirt's downtime was {downtime_ms:.0f} ms, "
        f"and the guest did nothing for {idle_ms:.0f} ms",
    )
