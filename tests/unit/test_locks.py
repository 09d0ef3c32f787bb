# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks that know their order."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vfmigrate import locks
from vfmigrate.locks import LockOrderError, Rank, RankedLock

VF = RankedLock(Rank.VF, "VF 0000:01:00.2")
OTHER_VF = RankedLock(Rank.VF, "VF 0000:01:00.3")
CLAIMS = RankedLock(Rank.CLAIMS, "the claims")


def test_locks_can_be_taken_in_order_and_again() -> None:
    with VF, CLAIMS, VF, CLAIMS:
        pass


@pytest.mark.parametrize("first", [CLAIMS, OTHER_VF])
def test_a_lock_out_of_order_is_an_error(first: RankedLock) -> None:
    with first, pytest.raises(LockOrderError, match=f"VF 0000:01:00.2 while it holds that of {first.name}"):
        VF.acquire()
    with VF:  # what was refused is not held
        pass


def test_each_thread_has_an_order_of_its_own() -> None:
    refused: list[LockOrderError] = []

    def take() -> None:
        try:
            with VF:
                pass
        except LockOrderError as error:
            refused.append(error)

    with CLAIMS:
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert refused == []


@pytest.fixture
def _unchecked() -> Iterator[None]:
    locks.check_order(False)
    yield
    locks.check_order(True)


@pytest.mark.usefixtures("_unchecked")
def test_the_order_is_not_checked_in_the_daemon() -> None:
    with CLAIMS, VF:
        pass
