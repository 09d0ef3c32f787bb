# SPDX-License-Identifier: GPL-2.0-or-later
"""One value for the time that is left: nested, spent at doors, and not that of another thread."""

from __future__ import annotations

import re
import threading
import time

import pytest

from vfmigrate import deadline
from vfmigrate.deadline import Door, OutOfTimeError
from vfmigrate.errors import Unreachable
from vfmigrate.polling import poll

SWITCH = Door("ovsdb-server", "see systemctl status ovsdb-server", Unreachable)
CARD = Door("the card", "see dmesg")


def test_without_one_a_door_has_its_own_limit() -> None:
    assert deadline.left() == float("inf")
    with deadline.waiting(CARD, 5.0) as seconds:
        assert seconds == 5.0


def test_a_door_waits_for_what_is_left_at_most() -> None:
    with deadline.within(2.0):
        with deadline.waiting(CARD, 1.0) as seconds:
            assert seconds == 1.0
        with deadline.waiting(CARD, 60.0) as seconds:
            assert 1.5 < seconds <= 2.0


def test_work_inside_other_work_has_no_more_time_than_that() -> None:
    with deadline.within(2.0):
        with deadline.within(60.0):
            assert deadline.left() <= 2.0
        with deadline.within(1.0):
            assert deadline.left() <= 1.0
        assert deadline.left() > 1.0
    assert deadline.left() == float("inf")


def test_cleaning_up_has_time_when_the_time_is_up() -> None:
    with deadline.within(0.0):
        with deadline.at_least(5.0), deadline.waiting(CARD, 60.0) as seconds:
            assert 4.0 < seconds <= 5.0
        assert deadline.left() == 0.0
    with deadline.within(60.0), deadline.at_least(5.0):
        assert deadline.left() > 50.0
    with deadline.at_least(5.0):
        assert deadline.left() == float("inf")


def test_nothing_is_begun_when_the_time_is_up_and_the_error_says_who_took_it() -> None:
    with deadline.within(0.02):
        with deadline.waiting(SWITCH, 60.0):
            time.sleep(0.03)
        with pytest.raises(OutOfTimeError) as caught, deadline.waiting(CARD, 60.0):
            raise AssertionError("not to be reached")
    problem = caught.value.problem
    assert re.fullmatch(r"no time is left to wait for the card: ovsdb-server took \S+ s of 0.02 s", problem)
    assert caught.value.remedy == "see systemctl status ovsdb-server"


def test_time_that_no_door_took() -> None:
    expected = pytest.raises(OutOfTimeError, match="0 s were allowed")
    with deadline.within(0.0), expected, deadline.waiting(CARD, 60.0):
        raise AssertionError("not to be reached")


def test_a_door_that_took_too_long_has_words_of_its_own() -> None:
    error = SWITCH.silent(5.0, "transact")
    assert isinstance(error, Unreachable)
    assert str(error) == (
        "ovsdb-server did not answer within 5 s: transact; see systemctl status ovsdb-server"
    )


def test_a_thread_begins_without_one() -> None:
    found: list[float] = []
    with deadline.within(1.0):
        thread = threading.Thread(target=lambda: found.append(deadline.left()))
        thread.start()
        thread.join()
    assert found == [float("inf")]


def test_polling_ends_with_the_work() -> None:
    begun = time.monotonic()
    with deadline.within(0.05):
        assert poll(lambda: None, 60.0, 0.01) is None
    assert time.monotonic() - begun < 10.0
