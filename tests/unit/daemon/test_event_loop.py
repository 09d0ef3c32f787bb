# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's own thread: work in order, work for later, and the work of every period."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmigrate.daemon.event_loop import EventLoop
from vfmigrate.errors import HostError
from vfmigrate.journal import Journal

PATIENCE = 20.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Journal]:
    log = Journal(tmp_path / "no-journal")
    yield log
    log.close()


@pytest.fixture
def loop(log: Journal) -> Iterator[EventLoop]:
    loop = EventLoop(log, period=lambda: 3600)
    loop.start(lambda: None)
    yield loop
    loop.stop()


def test_work_is_done_in_order_and_delayed_work_at_its_time(loop: EventLoop) -> None:
    done: list[str] = []
    all_done = threading.Event()
    loop.later(0.2, lambda: done.append("later"))
    loop.later(0.3, all_done.set)
    loop.soon(lambda: done.append("first"))
    loop.soon(lambda: done.append("second"))
    assert all_done.wait(PATIENCE)
    assert done == ["first", "second", "later"]


def test_delayed_work_does_not_delay_other_work(loop: EventLoop) -> None:
    did = threading.Event()
    loop.later(3600, lambda: None)
    loop.soon(did.set)
    assert did.wait(PATIENCE)


@pytest.mark.parametrize("failure", [HostError("libvirt does not answer"), ValueError("unforeseen")])
def test_work_is_done_after_work_that_failed(loop: EventLoop, failure: Exception) -> None:
    def fail() -> None:
        raise failure

    did = threading.Event()
    loop.soon(fail)
    loop.soon(did.set)
    assert did.wait(PATIENCE)


def test_frequent_events_do_not_delay_the_periodic_work(log: Journal) -> None:
    """It was a pause without work: an event every 0.6 s, and a reconcile never came."""
    loop = EventLoop(log, period=lambda: 0.3)
    periods: list[float] = []
    enough = threading.Event()

    def periodic() -> None:
        periods.append(time.monotonic())
        if len(periods) == 3:
            enough.set()

    def event() -> None:
        if not enough.is_set():
            loop.later(0.05, event)

    loop.soon(event)
    loop.start(periodic)
    assert enough.wait(PATIENCE)
    loop.stop()


def test_long_work_runs_in_a_thread_of_its_own(loop: EventLoop) -> None:
    go_on, did = threading.Event(), threading.Event()
    loop.apart(lambda: go_on.wait(PATIENCE), "long")
    loop.soon(did.set)
    assert did.wait(PATIENCE)
    go_on.set()
