# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for a migration: helped along, cancelled, timed out, given up, and where the guest is said to be."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Callable, Optional

import pytest

from vfmigrate.errors import Cancelled, HostError, Refused
from vfmigrate.migrate.convergence import Terms
from vfmigrate.migrate.monitor import ABORT_PATIENCE, PERIOD, Passage
from vfmigrate.model.progress import Progress

MIB = 2**20


class Mover:
    """A migration whose time passes when it is waited for."""

    name = "g"

    def __init__(self, seconds: float = 5.0, dirty_mib: int = 0) -> None:
        self.seconds = seconds
        self.dirty_mib = dirty_mib
        self.now = 0.0
        self.error: Optional[HostError] = None
        self.arrived = False
        self.done: list[str] = []
        self.hears = True
        self.at: dict[float, Callable[[], None]] = {}

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()
        if self.now >= self.seconds and self.error is None:
            self.arrived = True
        return self.arrived or self.error is not None

    def finish(self) -> None:
        if self.error is not None:
            raise self.error

    def job(self) -> Optional[Mapping[str, int]]:
        if self.now < 1:
            return None
        return {
            "time_elapsed": round(self.now * 1000),
            "memory_total": 1000 * MIB,
            "memory_remaining": 100 * MIB,
            "memory_bps": 10 * MIB,
            "memory_dirty_rate": self.dirty_mib * MIB // 4096,
            "memory_page_size": 4096,
            "memory_iteration": 1 + round(self.now),
        }

    def abort(self) -> bool:
        self.done.append("abort")
        if self.hears:
            self.error = HostError("the migration of guest 'g' failed: operation aborted")
        return self.hears

    def allow_downtime(self, ms: int) -> None:
        self.done.append(f"allow {ms}")

    def suspend(self) -> None:
        self.done.append("suspend")

    def states(self) -> dict[str, Optional[str]]:
        return (
            {"source": None, "destination": "running"}
            if self.arrived
            else {"source": "running", "destination": None}
        )


class Display:
    """Remembers what was shown."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.seen: list[Progress] = []

    def tell(self, event: str, _text: str, /, **_facts: Any) -> None:
        self.events.append(event)

    def progress(self, now: Progress, _allowed_ms: int, /) -> None:
        self.seen.append(now)


def passage(
    mover: Mover, display: Display, cancelled: Optional[threading.Event] = None, **more: Any
) -> Passage:
    return Passage(mover, display, Terms(1000), cancelled or threading.Event(), **more)


def test_it_arrives() -> None:
    mover, display = Mover(), Display()
    passage(mover, display).wait()
    assert mover.done == []
    assert display.events == []
    assert len(display.seen) == (mover.seconds - 1) / PERIOD


def test_it_fails() -> None:
    mover = Mover()
    mover.at[2.0] = lambda: setattr(mover, "error", HostError("no room there", "make some"))
    with pytest.raises(HostError, match="no room there; the guest runs on the source; make some"):
        passage(mover, Display()).wait()


def test_it_is_cancelled() -> None:
    mover, display, cancelled = Mover(), Display(), threading.Event()
    mover.at[2.0] = cancelled.set
    with pytest.raises(Cancelled, match="of guest 'g' was cancelled; the guest runs on the source"):
        passage(mover, display, cancelled).wait()
    assert mover.now == 2.0 + PERIOD
    assert display.events == ["cancelling"]


def test_libvirt_is_asked_until_it_hears() -> None:
    mover, cancelled = Mover(60), threading.Event()
    mover.hears = False
    mover.at[2.0] = cancelled.set
    mover.at[3.0] = lambda: setattr(mover, "hears", True)
    with pytest.raises(Cancelled):
        passage(mover, Display(), cancelled).wait()
    assert len(mover.done) > 3


def test_too_late_to_be_cancelled() -> None:
    mover, display, cancelled = Mover(), Display(), threading.Event()
    mover.hears = False
    mover.at[4.5] = cancelled.set
    passage(mover, display, cancelled).wait()
    assert display.events == ["cancelling", "too-late"]


def test_libvirt_never_hears() -> None:
    mover, cancelled = Mover(10 * ABORT_PATIENCE), threading.Event()
    mover.hears = False
    cancelled.set()
    with pytest.raises(
        HostError, match="does not end the migration of guest 'g' within 60 s: the guest runs"
    ):
        passage(mover, Display(), cancelled).wait()
    assert mover.now < 2 * ABORT_PATIENCE


def test_a_busy_guest_is_given_more_and_then_up() -> None:
    mover, display = Mover(600, dirty_mib=20), Display()
    with pytest.raises(
        Refused,
        match=r"does not come to an end: the guest writes 20\.0 MiB/s.*; the guest runs on the source",
    ):
        passage(mover, display).wait()
    assert mover.done == ["allow 1000", "abort"]
    assert display.events == ["downtime", "cancelling"]
    assert mover.now < 60


def test_after_the_timeout_the_guest_is_suspended_once() -> None:
    """Until then it is not given up, however little it converges: the guest will be suspended."""
    mover, display = Mover(60, dirty_mib=20), Display()
    mover.at[25.5] = lambda: setattr(mover, "seconds", 26.0)
    passage(mover, display, timeout=25).wait()
    assert mover.done == ["allow 1000", "suspend"]
    assert display.events == ["downtime", "waiting", "suspended"]


def test_a_suspended_guest_is_not_judged_by_what_it_wrote_before() -> None:
    mover, display = Mover(60, dirty_mib=20), Display()
    passage(mover, display, timeout=5).wait()
    assert mover.done[-1] == "suspend"
    assert display.events[-1] == "suspended"


def test_after_the_timeout_it_may_be_cancelled() -> None:
    mover = Mover(60)
    with pytest.raises(Refused, match="was given up: after 5 s it is not done; the guest runs on the source"):
        passage(mover, Display(), timeout=5, cancel_at_timeout=True).wait()


def test_a_guest_that_is_nowhere() -> None:
    mover = Mover()
    mover.error = HostError("the other host is gone")
    mover.states = lambda: {"source": "paused", "destination": None}  # type: ignore[method-assign]  # as after that
    with pytest.raises(HostError, match="the guest is paused on the source"):
        passage(mover, Display()).wait()
