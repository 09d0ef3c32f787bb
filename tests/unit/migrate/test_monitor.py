# SPDX-License-Identifier: GPL-2.0-or-later
"""Waiting for a migration: downtime raised, cancelled, timed out, and the guest's location in messages."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Callable, Optional

import pytest

from vfmigrate.errors import Cancelled, HostError, Refused
from vfmigrate.migrate.convergence import ConvergenceLimits
from vfmigrate.migrate.monitor import ABORT_TIMEOUT, PERIOD, MigrationMonitor
from vfmigrate.model.progress import Progress

MIB = 2**20


class RunningMigration:
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

    def event(self, event: str, _text: str, /, **_facts: Any) -> None:
        self.events.append(event)

    def progress(self, now: Progress, _allowed_ms: int, /) -> None:
        self.seen.append(now)


def monitor(
    migration: RunningMigration, display: Display, cancelled: Optional[threading.Event] = None, **more: Any
) -> MigrationMonitor:
    return MigrationMonitor(
        migration, display, ConvergenceLimits(1000), cancelled or threading.Event(), **more
    )


def test_a_migration_that_converges_is_only_watched() -> None:
    migration, display = RunningMigration(), Display()
    monitor(migration, display).wait()
    assert migration.done == []
    assert display.events == []
    assert len(display.seen) == (migration.seconds - 1) / PERIOD


def test_a_failed_migration_is_an_error_with_its_reason() -> None:
    migration = RunningMigration()
    migration.at[2.0] = lambda: setattr(migration, "error", HostError("no room there", "make some"))
    with pytest.raises(HostError, match="no room there; the guest runs on the source; make some"):
        monitor(migration, Display()).wait()


def test_a_cancelled_migration_ends_within_one_period() -> None:
    migration, display, cancelled = RunningMigration(), Display(), threading.Event()
    migration.at[2.0] = cancelled.set
    with pytest.raises(Cancelled, match="of guest 'g' was cancelled; the guest runs on the source"):
        monitor(migration, display, cancelled).wait()
    assert migration.now == 2.0 + PERIOD
    assert display.events == ["cancelling"]


def test_the_cancellation_is_repeated_until_it_takes_effect() -> None:
    migration, cancelled = RunningMigration(60), threading.Event()
    migration.hears = False
    migration.at[2.0] = cancelled.set
    migration.at[3.0] = lambda: setattr(migration, "hears", True)
    with pytest.raises(Cancelled):
        monitor(migration, Display(), cancelled).wait()
    assert len(migration.done) > 3


def test_a_cancellation_after_the_switchover_is_reported_as_too_late() -> None:
    migration, display, cancelled = RunningMigration(), Display(), threading.Event()
    migration.hears = False
    migration.at[4.5] = cancelled.set
    monitor(migration, display, cancelled).wait()
    assert display.events == ["cancelling", "too-late"]


def test_a_cancellation_that_libvirt_ignores_is_an_error() -> None:
    migration, cancelled = RunningMigration(10 * ABORT_TIMEOUT), threading.Event()
    migration.hears = False
    cancelled.set()
    with pytest.raises(
        HostError, match="did not cancel the migration of guest 'g' within 60 s: the guest runs"
    ):
        monitor(migration, Display(), cancelled).wait()
    assert migration.now < 2 * ABORT_TIMEOUT


def test_a_busy_guest_gets_more_downtime_and_is_then_cancelled() -> None:
    migration, display = RunningMigration(600, dirty_mib=20), Display()
    with pytest.raises(
        Refused,
        match=r"does not converge: the guest dirties 20\.0 MiB/s.*; the guest runs on the source",
    ):
        monitor(migration, display).wait()
    assert migration.done == ["allow 1000", "abort"]
    assert display.events == ["downtime", "cancelling"]
    assert migration.now < 60


def test_after_the_timeout_the_guest_is_suspended_once() -> None:
    """Until then it is not cancelled, however little it converges."""
    migration, display = RunningMigration(60, dirty_mib=20), Display()
    migration.at[25.5] = lambda: setattr(migration, "seconds", 26.0)
    monitor(migration, display, timeout=25).wait()
    assert migration.done == ["allow 1000", "suspend"]
    assert display.events == ["downtime", "waiting", "suspended"]


def test_a_suspended_guest_is_not_cancelled() -> None:
    migration, display = RunningMigration(60, dirty_mib=20), Display()
    monitor(migration, display, timeout=5).wait()
    assert migration.done[-1] == "suspend"
    assert display.events[-1] == "suspended"


def test_the_timeout_cancels_on_request() -> None:
    migration = RunningMigration(60)
    with pytest.raises(
        Refused, match="was cancelled: the migration was not complete after 5 s; the guest runs"
    ):
        monitor(migration, Display(), timeout=5, cancel_at_timeout=True).wait()


def test_a_failed_migration_reports_where_the_guest_is() -> None:
    migration = RunningMigration()
    migration.error = HostError("the other host is gone")
    migration.states = lambda: {"source": "paused", "destination": None}  # type: ignore[method-assign]  # as after that
    with pytest.raises(HostError, match="the guest is paused on the source"):
        monitor(migration, Display()).wait()
