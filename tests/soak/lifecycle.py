# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests come and go in any order while the daemon dies and disk and switch fail: many examples, chosen at random.

The unit tests run some examples, the same in every run. What is found here is printed as the shortest list of events
that leads to it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import invariant

from tests.soak.tally import OPERATIONS, Tally
from tests.unit.daemon.hook_handler.test_lifecycle import Lifecycle
from vfmigrate import locks

STEPS = 40


class CountedLifecycle(Lifecycle):
    """Counts the events."""

    counted = 0

    @invariant()
    def count(self) -> None:
        """Called after each event."""
        CountedLifecycle.counted += 1


def run(examples: int) -> Tally:
    """Try this many examples of up to STEPS events each."""
    tally = Tally("events in any order", OPERATIONS)
    begun, before = time.monotonic(), CountedLifecycle.counted
    locks.check(True)
    case = CountedLifecycle.TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=STEPS, deadline=None, database=None)
    # the daemon's log
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            case().runTest()
        except Exception as error:  # noqa: BLE001 - whatever went wrong is counted
            notes = " ".join(getattr(error, "__notes__", ()))
            tally.fail(f"{type(error).__name__}: {error} {notes}")
    tally.tried = CountedLifecycle.counted - before
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
