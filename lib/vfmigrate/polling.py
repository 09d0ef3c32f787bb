# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for what no event announces: observe again and again, for a limited time."""

from __future__ import annotations

import time
from typing import Callable, Optional, TypeVar

T = TypeVar("T")


def poll(observe: Callable[[], Optional[T]], seconds: float, period: float) -> Optional[T]:
    """What `observe` returns as soon as that is not None; None after `seconds`.

    Observes at once, then every `period` seconds, and a last time after the end.
    """
    end = time.monotonic() + seconds
    while True:
        over = time.monotonic() >= end
        found = observe()
        if found is not None or over:
            return found
        time.sleep(period)
