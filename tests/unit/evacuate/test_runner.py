# SPDX-License-Identifier: GPL-2.0-or-later
"""An evacuation carried out: at once what may be at once, elsewhere what is refused, and stopped in the middle."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.evacuate.test_planner import LIMIT, guest, host, place, vfs
from vfmigrate.errors import Cancelled, HostError, Refused
from vfmigrate.evacuate import planner
from vfmigrate.evacuate.planner import Leaver, Place
from vfmigrate.evacuate.runner import FAILED, MOVED, STAYED, Arrival, Evacuator, Fate, TurnedAway
from vfmigrate.model.host_facts import HostFacts

HERE = host("here", {"data": [vfs(0, taken=9)]})


class Ground:
    """Hosts that guests move between as a test says."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self.cancelled = threading.Event()
        self.lock = threading.Lock()
        self.moving: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.log: list[tuple[str, str, str]] = []
        #: how often a place still turns a guest away, by both names
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.broken: set[str] = set()
        #: everybody waits for this many to be on the way
        self.gate: Optional[threading.Barrier] = None

    def look(self) -> tuple[HostFacts, Sequence[Place]]:
        return HERE, self.places

    def move(self, leaver: Leaver, where: Place, cancelled: threading.Event) -> Arrival:
        with self.lock:
            if self.refusals[leaver.name, where.name]:
                self.refusals[leaver.name, where.name] -= 1
                raise TurnedAway(Refused("no free VF"))
            self.moving[where.name] += leaver.travelling["data"]
            self.most[where.name] = max(self.most[where.name], self.moving[where.name])
        try:
            if self.gate is not None:
                self.gate.wait(10)
            if leaver.name in self.broken:
                raise HostError("its state did not load")
            if cancelled.is_set():
                raise Cancelled("cancelled")
            return Arrival(30.0)
        finally:
            with self.lock:
                self.moving[where.name] -= leaver.travelling["data"]

    def tell(self, event: str, leaver: Leaver, where: str, text: str) -> None:
        assert text
        self.log.append((event, leaver.name, where))


def evacuate(ground: Ground, guests: Sequence[Leaver], jobs: int = 9) -> dict[str, Fate]:
    plan = planner.plan(guests, ground.places)
    fates = Evacuator(ground, ground.cancelled, HERE, ground.places, jobs, patience=0.01).run(guests, plan)
    assert [fate.guest for fate in fates] == list(guests)
    return {fate.guest.name: fate for fate in fates}


def test_as_many_at_once_as_may_be() -> None:
    ground = Ground([place("b", 8)])
    ground.gate = threading.Barrier(LIMIT)  # opens for four at once only
    fates = evacuate(ground, [guest(number) for number in range(8)])
    assert {fate.outcome for fate in fates.values()} == {MOVED}
    assert ground.most == {"b": LIMIT}


def test_guests_without_vfs_are_limited_by_the_jobs_alone() -> None:
    ground = Ground([place("b", 0)])
    ground.gate = threading.Barrier(6)
    fates = evacuate(ground, [guest(number, 0) for number in range(6)], jobs=6)
    assert {fate.outcome for fate in fates.values()} == {MOVED}


def test_a_refusal_leads_elsewhere() -> None:
    ground = Ground([place("b", 4), place("c", 2)])
    ground.refusals["g0", "b"] = 1
    fates = evacuate(ground, [guest(0)])
    assert (fates["g0"].outcome, fates["g0"].place, fates["g0"].tried) == (MOVED, "c", ["b", "c"])
    assert not fates["g0"].problems
    assert [event for event, _, _ in ground.log] == ["begin", "refused", "begin", "arrived"]


def test_a_refusal_of_the_moment_is_tried_again_at_the_end_and_no_more() -> None:
    ground = Ground([place("b", 4)])
    ground.refusals.update({("g0", "b"): 1, ("g1", "b"): 9})
    fates = evacuate(ground, [guest(0), guest(1), guest(2)])
    assert (fates["g0"].outcome, fates["g0"].tried) == (MOVED, ["b", "b"])
    assert (fates["g1"].outcome, fates["g1"].tried) == (STAYED, ["b", "b"])
    assert fates["g1"].problems == ("no free VF",)
    assert isinstance(fates["g1"].error, Refused)
    assert fates["g2"].tried == ["b"]


def test_one_failure_does_not_keep_the_others() -> None:
    ground = Ground([place("b", 8)])
    ground.broken.add("g1")
    fates = evacuate(ground, [guest(0), guest(1), guest(2)])
    assert {name: fate.outcome for name, fate in fates.items()} == {"g0": MOVED, "g1": FAILED, "g2": MOVED}
    assert fates["g1"].problems == ("its state did not load",)
    assert fates["g1"].tried == ["b"]


def test_who_fits_nowhere_stays_and_is_told_why() -> None:
    fates = evacuate(Ground([place("b", 1)]), [guest(0), guest(1)])
    assert [fate.outcome for fate in fates.values()] == [MOVED, STAYED]
    assert fates["g1"].problems == ("b: pool 'data' has no VF left",)
    assert fates["g1"].tried == []


def test_an_end_in_the_middle() -> None:
    """Who is on the way is cancelled, who is not does not set out."""
    ground = Ground([place("b", 8)])
    ground.gate = threading.Barrier(2, action=ground.cancelled.set)
    fates = evacuate(ground, [guest(number) for number in range(5)], jobs=2)
    assert {fate.outcome for fate in fates.values()} == {STAYED}
    assert all(isinstance(fate.error, Cancelled) for fate in fates.values())
    assert sum(bool(fate.tried) for fate in fates.values()) == 2


def test_a_fault_of_ours_is_not_hidden() -> None:
    class Broken(Ground):
        def move(self, leaver: Leaver, where: Place, cancelled: threading.Event) -> Arrival:
            raise ZeroDivisionError(leaver.name, where.name, cancelled)

    with pytest.raises(ZeroDivisionError):
        evacuate(Broken([place("b", 2)]), [guest(0)])


class Crowded(Ground):
    """Others fill the card of the destination until it is looked at again."""

    def __init__(self) -> None:
        super().__init__([place("b", 4, moving=LIMIT)])
        self.looks = 0

    def look(self) -> tuple[HostFacts, Sequence[Place]]:
        self.looks += 1
        self.places = [place("b", 4)]
        return super().look()


def test_others_are_waited_for() -> None:
    ground = Crowded()
    fates = evacuate(ground, [guest(0)])
    assert fates["g0"].outcome == MOVED
    assert ground.looks == 1
    assert ground.log[0][0] == "waiting"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 4), max_size=8),
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.integers(1, 5),
    st.sets(st.tuples(st.integers(0, 7), st.integers(0, 2))),
)
def test_whatever_is_refused_no_limit_is_exceeded(
    counts: list[int], free: list[int], jobs: int, refused: set[tuple[int, int]]
) -> None:
    ground = Ground([place(f"p{number}", count) for number, count in enumerate(free)])
    for one, where in refused:
        ground.refusals[f"g{one}", f"p{where}"] = 1
    guests = [guest(number, count) for number, count in enumerate(counts)]
    fates = evacuate(ground, guests, jobs)
    assert all(most <= LIMIT for most in ground.most.values())
    for fate in fates.values():
        assert (fate.outcome == MOVED) == (fate.place is not None and not fate.problems)
    plan = planner.plan(guests, ground.places)
    if not refused:
        assert {name for name, fate in fates.items() if fate.outcome == MOVED} == {
            each.name for each in guests if each.uuid in plan.moves
        }
