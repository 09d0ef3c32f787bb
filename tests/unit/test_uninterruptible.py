# SPDX-License-Identifier: GPL-2.0-or-later
"""Calls that nothing can interrupt: given up after their time, counted, and bounded in number."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vfmigrate import deadline
from vfmigrate.deadline import Door, OutOfTimeError
from vfmigrate.errors import Unreachable
from vfmigrate.polling import until
from vfmigrate.uninterruptible import MOST_HUNG, call, hung, problem

#: a door of its own for each test: the count is the process's
DOORS = (Door(f"service {number}", "see systemctl status it", Unreachable) for number in range(99))


@pytest.fixture
def door() -> Door:
    return next(DOORS)


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_what_returns_in_time_is_returned_and_raised(door: Door) -> None:
    def fail() -> None:
        raise KeyError("unforeseen")

    assert call(door, 20.0, divmod, 7, 2) == (3, 1)
    with pytest.raises(KeyError, match="unforeseen"):
        call(door, 20.0, fail)
    assert hung() == {}


def test_what_does_not_return_is_given_up_and_counted(door: Door, go_on: threading.Event) -> None:
    with pytest.raises(Unreachable, match=r"did not answer within 0.01 s: wait; see systemctl status it"):
        call(door, 0.01, go_on.wait, what="wait")
    assert hung() == {door.name: 1}
    assert f"have not returned: 1 of {door.name}; see" in str(problem())
    assert call(door, 20.0, str, 1) == "1"
    go_on.set()
    assert until(lambda: hung() == {}, 20.0, 0.01)
    assert problem() is None


def test_it_has_no_more_time_than_the_work(door: Door, go_on: threading.Event) -> None:
    begun = time.monotonic()
    with deadline.within(0.05):
        with pytest.raises(Unreachable, match="did not answer"):
            call(door, 60.0, go_on.wait)
        with pytest.raises(OutOfTimeError, match="no time is left"):
            call(door, 60.0, go_on.wait)
    assert time.monotonic() - begun < 10.0


def test_a_door_at_which_too_many_hang_is_not_called(door: Door, go_on: threading.Event) -> None:
    for _ in range(MOST_HUNG):
        with pytest.raises(Unreachable, match="did not answer"):
            call(door, 0.001, go_on.wait)
    with pytest.raises(Unreachable, match=f"{MOST_HUNG} calls of {door.name} have not returned"):
        call(door, 20.0, str, 1)
    assert call(next(DOORS), 20.0, str, 1) == "1"
    go_on.set()
    assert until(lambda: hung() == {}, 20.0, 0.01)
    assert call(door, 20.0, str, 1) == "1"


def test_the_thread_has_the_time_of_the_work(door: Door) -> None:
    with deadline.within(5.0):
        assert call(door, 20.0, deadline.left) <= 5.0
    assert call(door, 20.0, deadline.left) == float("inf")


def test_threads_are_used_again(door: Door) -> None:
    threads = {call(door, 20.0, threading.get_ident) for _ in range(50)}
    assert len(threads) < 5
