# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for what no event announces: observe again and again, for a limited time.

No other module of the library has such a loop (tests/unit/test_polling.py).
"""

from __future__ import annotations

import time
from typing import Callable, Optional, TypeVar

from vfmigrate import deadline

T = TypeVar("T")


def poll(
    observe: Callable[[], Optional[T]],
    seconds: float,
    period: float,
    *,
    longest: float = 0.0,
    pause: Callable[[float], object] = time.sleep,
) -> Optional[T]:
    """What `observe` returns as soon as that is not None; None after `seconds`.

    Observes at once, then every `period` seconds, and a last time after the end. Where `longest` is more than `period`,
    each pause is twice the one before, up to `longest` seconds. `pause` waits for a number of seconds; when it returns
    True, as threading.Event.wait() does for an event that is set, the rest of the time is given up. That is also
    given up when the time of the work is up (deadline).
    """
    end = time.monotonic() + min(seconds, deadline.left())
    while True:
        over = time.monotonic() >= end
        found = observe()
        if found is not None or over or pause(period) is True:
            return found
        period = max(period, min(2 * period, longest))


def until(
    condition: Callable[[], bool],
    seconds: float,
    period: float,
    *,
    pause: Callable[[float], object] = time.sleep,
) -> bool:
    """Wait until a condition holds, at most `seconds`; returns whether it held. The rest is as for `poll`."""
    return poll(lambda: True if condition() else None, seconds, period, pause=pause) is not None
