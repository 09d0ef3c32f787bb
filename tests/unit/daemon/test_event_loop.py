# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's own threads: work in order, work for later, and the work of every period."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmigrate import deadline
from vfmigrate.daemon.event_loop import EventLoop
from vfmigrate.daemon.watchdog import APART_SECONDS, RECONCILE_SECONDS, WORK_SECONDS, Watchdog
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
    loop.later(0.2, "guest", lambda: done.append("later"))
    loop.later(0.3, "guest", all_done.set)
    loop.soon("guest", lambda: done.append("first"))
    loop.soon("guest", lambda: done.append("second"))
    assert all_done.wait(PATIENCE)
    assert done == ["first", "second", "later"]


def test_delayed_work_does_not_delay_other_work(loop: EventLoop) -> None:
    did = threading.Event()
    loop.later(3600, "guest", lambda: None)
    loop.soon("guest", did.set)
    assert did.wait(PATIENCE)


@pytest.mark.parametrize("failure", [HostError("libvirt does not answer"), ValueError("unforeseen")])
def test_work_is_done_after_work_that_failed(loop: EventLoop, failure: Exception) -> None:
    def fail() -> None:
        raise failure

    did = threading.Event()
    loop.soon("guest", fail)
    loop.soon("guest", did.set)
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
            loop.later(0.05, "guest", event)

    loop.soon("guest", event)
    loop.start(periodic)
    assert enough.wait(PATIENCE)
    loop.stop()


def test_long_work_runs_in_a_thread_of_its_own(loop: EventLoop) -> None:
    go_on, did = threading.Event(), threading.Event()
    loop.apart(lambda: go_on.wait(PATIENCE), "long")
    loop.soon("guest", did.set)
    assert did.wait(PATIENCE)
    go_on.set()


def test_a_reconcile_that_takes_long_delays_no_event(log: Journal) -> None:
    go_on, began, did = threading.Event(), threading.Event(), threading.Event()

    def periodic() -> None:
        began.set()
        go_on.wait(PATIENCE)

    loop = EventLoop(log, period=lambda: 3600)
    loop.start(periodic)
    loop.period_now()
    assert began.wait(PATIENCE)
    loop.soon("guest", did.set)
    assert did.wait(PATIENCE)
    go_on.set()
    loop.stop()


def test_a_reconcile_that_is_asked_for_meanwhile_is_done_afterwards(log: Journal) -> None:
    done = threading.Semaphore(0)
    go_on = threading.Event()

    def periodic() -> None:
        done.release()
        go_on.wait(PATIENCE)

    loop = EventLoop(log, period=lambda: 3600)
    loop.start(periodic)
    loop.period_now()
    assert done.acquire(timeout=PATIENCE)
    loop.period_now()
    loop.period_now()
    go_on.set()
    assert done.acquire(timeout=PATIENCE)
    assert not done.acquire(timeout=0.2)
    loop.stop()


def test_a_guest_about_which_libvirt_does_not_answer_delays_no_other(loop: EventLoop) -> None:
    go_on, began, did, done = (threading.Event() for _ in range(4))
    order: list[str] = []

    def hang() -> None:
        began.set()
        go_on.wait(PATIENCE)

    loop.soon("hangs", hang)
    loop.soon("hangs", lambda: order.append("after"))
    assert began.wait(PATIENCE)
    loop.soon("other", did.set)
    assert did.wait(PATIENCE)
    assert order == []
    loop.soon("hangs", done.set)
    go_on.set()
    assert done.wait(PATIENCE)
    assert order == ["after"]


def test_all_work_has_a_deadline(log: Journal) -> None:
    left: queue.Queue[float] = queue.Queue()

    def note() -> None:
        left.put(deadline.left())

    loop = EventLoop(log, period=lambda: 3600, working=Watchdog(log).working)
    loop.start(note)
    loop.soon("guest", note)
    assert WORK_SECONDS - 20 < left.get(timeout=PATIENCE) <= WORK_SECONDS
    loop.apart(note, "apart")
    assert APART_SECONDS - 20 < left.get(timeout=PATIENCE) <= APART_SECONDS
    loop.period_now()
    assert RECONCILE_SECONDS - 20 < left.get(timeout=PATIENCE) <= RECONCILE_SECONDS
    loop.stop()
