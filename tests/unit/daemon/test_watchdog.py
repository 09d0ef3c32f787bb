# SPDX-License-Identifier: GPL-2.0-or-later
"""The heartbeat: there as long as all work is done in time, and not a moment longer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmigrate import deadline
from vfmigrate.daemon.watchdog import OVERDUE_SECONDS, Watchdog, interval
from vfmigrate.journal import Journal


class Heart:
    """A watchdog whose clock a test moves, and what it sent."""

    def __init__(self, log: Journal) -> None:
        self.now = 100.0
        self.sent: list[str] = []
        self.watchdog = Watchdog(log, send=self.sent.append, clock=lambda: self.now)


@pytest.fixture
def heart(tmp_path: Path) -> Iterator[Heart]:
    log = Journal(tmp_path / "no-journal")
    yield Heart(log)
    log.close()


def test_the_heartbeat_goes_on_without_work_and_with_work_in_time(heart: Heart) -> None:
    assert heart.watchdog.beat()
    with heart.watchdog.working("request 'hook'", 10):
        heart.now += 9 + OVERDUE_SECONDS
        assert heart.watchdog.beat()
    heart.now += 100
    assert heart.watchdog.beat()
    assert heart.sent == ["WATCHDOG=1"] * 3


def test_the_heartbeat_stops_while_work_is_overdue(heart: Heart, capsys: pytest.CaptureFixture[str]) -> None:
    with heart.watchdog.working("request 'hook'", 10), heart.watchdog.working("request 'status'", 200):
        heart.now += 11 + OVERDUE_SECONDS
        assert not heart.watchdog.beat()
        assert not heart.watchdog.beat()
    assert heart.sent == []
    assert capsys.readouterr().err.count("request 'hook': not finished in time") == 1
    assert heart.watchdog.beat()


def test_work_has_a_deadline(heart: Heart) -> None:
    with heart.watchdog.working("request 'hook'", 10):
        assert 9 < deadline.left() <= 10
    assert deadline.left() == float("inf")


def test_the_heartbeat_stops_while_a_thread_is_deadlocked(heart: Heart) -> None:
    locked, held = threading.Lock(), threading.Event()
    locked.acquire()

    def hang() -> None:
        with heart.watchdog.working("request 'hook'", 10):
            held.set()
            locked.acquire()

    thread = threading.Thread(target=hang, daemon=True)
    thread.start()
    assert held.wait(20)
    heart.now += 11 + OVERDUE_SECONDS
    assert not heart.watchdog.beat()
    locked.release()
    thread.join(20)
    assert heart.watchdog.beat()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 10.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_interval_is_a_third_of_watchdog_usec(environment: dict[str, str], seconds: float) -> None:
    assert interval(environment) == seconds
