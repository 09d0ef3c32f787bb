# SPDX-License-Identifier: GPL-2.0-or-later
"""Polling: returns what appears, and gives up after its time with a last look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from vfmigrate.polling import poll


def test_what_is_there_is_returned_at_once() -> None:
    assert poll(lambda: "there", 0.0, 60.0) == "there"


def test_what_appears_is_returned() -> None:
    answers: Iterator[Optional[int]] = iter((None, None, 7))
    assert poll(lambda: next(answers), 60.0, 0.0) == 7


def test_what_does_not_appear_is_none() -> None:
    looks = []
    assert poll(lambda: looks.append(1), 0.01, 0.001) is None
    assert len(looks) > 1
