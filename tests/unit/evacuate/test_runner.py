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

from tests.unit.evacuate.test_planner import LIMIT, destination, guest, host, vfs
from vfmigrate.errors import Cancelled, HostError, Refused
from vfmigrate.evacuate import planner
from vfmigrate.evacuate.planner import Destination, EvacuatingGuest
from vfmigrate.evacuate.runner import (
    FAILED,
    MOVED,
    STAYED,
    Arrival,
    DestinationRefused,
    Evacuation,
    GuestResult,
)
from vfmigrate.model.host_facts import HostFacts

HERE = host("here", {"data": [vfs(0, taken=9)]})


class FakeHosts:
    """Hosts that guests move between as a test says."""

    def __init__(self, destinations: Sequence[Destination]) -> None:
        self.destinations = destinations
        self.cancelled = threading.Event()
        self.lock = threading.Lock()
        self.moving: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.log: list[tuple[str, str, str]] = []
        #: how often a destination still turns a guest away, by both names
        self.refusals: Counter[tuple[str, str]] = Counter()
        self.broken: set[str] = set()
        #: everybody waits for this many to be on the way
        self.gate: Optional[threading.Barrier] = None

    def observe(self) -> tuple[HostFacts, Sequence[Destination]]:
        return HERE, self.destinations

    def migrate(self, found: EvacuatingGuest, where: Destination, cancelled: threading.Event) -> Arrival:
        with self.lock:
            if self.refusals[found.name, where.name]:
                self.refusals[found.name, where.name] -= 1
                raise DestinationRefused(Refused("no free VF"))
            self.moving[where.name] += found.vfs_with_state["data"]
            self.most[where.name] = max(self.most[where.name], self.moving[where.name])
        try:
            if self.gate is not None:
                self.gate.wait(10)
            if found.name in self.broken:
                raise HostError("its state did not load")
            if cancelled.is_set():
                raise Cancelled("cancelled")
            return Arrival(30.0)
        finally:
            with self.lock:
                self.moving[where.name] -= found.vfs_with_state["data"]

    def event(self, event: str, found: EvacuatingGuest, where: str, text: str) -> None:
        assert text
        self.log.append((event, found.name, where))


def evacuate(hosts: FakeHosts, guests: Sequence[EvacuatingGuest], jobs: int = 9) -> dict[str, GuestResult]:
    plan = planner.plan(guests, hosts.destinations)
    results = Evacuation(hosts, hosts.cancelled, HERE, hosts.destinations, jobs, period=0.01).run(
        guests, plan
    )
    assert [result.guest for result in results] == list(guests)
    return {result.guest.name: result for result in results}


def test_as_many_migrate_at_once_as_the_limits_allow() -> None:
    hosts = FakeHosts([destination("b", 8)])
    hosts.gate = threading.Barrier(LIMIT)  # opens for four at once only
    results = evacuate(hosts, [guest(number) for number in range(8)])
    assert {result.outcome for result in results.values()} == {MOVED}
    assert hosts.most == {"b": LIMIT}


def test_only_jobs_limit_guests_without_vfs() -> None:
    hosts = FakeHosts([destination("b", 0)])
    hosts.gate = threading.Barrier(6)
    results = evacuate(hosts, [guest(number, 0) for number in range(6)], jobs=6)
    assert {result.outcome for result in results.values()} == {MOVED}


def test_a_refused_guest_migrates_to_another_destination() -> None:
    hosts = FakeHosts([destination("b", 4), destination("c", 2)])
    hosts.refusals["g0", "b"] = 1
    results = evacuate(hosts, [guest(0)])
    assert (results["g0"].outcome, results["g0"].destination, results["g0"].tried) == (MOVED, "c", ["b", "c"])
    assert not results["g0"].problems
    assert [event for event, _, _ in hosts.log] == ["begin", "refused", "begin", "arrived"]


def test_a_refused_guest_is_retried_once_at_the_end() -> None:
    hosts = FakeHosts([destination("b", 4)])
    hosts.refusals.update({("g0", "b"): 1, ("g1", "b"): 9})
    results = evacuate(hosts, [guest(0), guest(1), guest(2)])
    assert (results["g0"].outcome, results["g0"].tried) == (MOVED, ["b", "b"])
    assert (results["g1"].outcome, results["g1"].tried) == (STAYED, ["b", "b"])
    assert results["g1"].problems == ("no free VF",)
    assert isinstance(results["g1"].error, Refused)
    assert results["g2"].tried == ["b"]


def test_a_failed_migration_does_not_stop_the_others() -> None:
    hosts = FakeHosts([destination("b", 8)])
    hosts.broken.add("g1")
    results = evacuate(hosts, [guest(0), guest(1), guest(2)])
    assert {name: result.outcome for name, result in results.items()} == {
        "g0": MOVED,
        "g1": FAILED,
        "g2": MOVED,
    }
    assert results["g1"].problems == ("its state did not load",)
    assert results["g1"].tried == ["b"]


def test_a_guest_without_destination_stays_with_the_reason() -> None:
    results = evacuate(FakeHosts([destination("b", 1)]), [guest(0), guest(1)])
    assert [result.outcome for result in results.values()] == [MOVED, STAYED]
    assert results["g1"].problems == ("b: pool 'data' has no free VF left",)
    assert results["g1"].tried == []


def test_cancelling_stops_the_migrations_that_run() -> None:
    """Who is on the way is cancelled, who is not does not set out."""
    hosts = FakeHosts([destination("b", 8)])
    hosts.gate = threading.Barrier(2, action=hosts.cancelled.set)
    results = evacuate(hosts, [guest(number) for number in range(5)], jobs=2)
    assert {result.outcome for result in results.values()} == {STAYED}
    assert all(isinstance(result.error, Cancelled) for result in results.values())
    assert sum(bool(result.tried) for result in results.values()) == 2


def test_an_unexpected_exception_is_raised() -> None:
    class Broken(FakeHosts):
        def migrate(self, found: EvacuatingGuest, where: Destination, cancelled: threading.Event) -> Arrival:
            raise ZeroDivisionError(found.name, where.name, cancelled)

    with pytest.raises(ZeroDivisionError):
        evacuate(Broken([destination("b", 2)]), [guest(0)])


class CrowdedHosts(FakeHosts):
    """Others fill the card of the destination until it is looked at again."""

    def __init__(self) -> None:
        super().__init__([destination("b", 4, moving=LIMIT)])
        self.looks = 0

    def observe(self) -> tuple[HostFacts, Sequence[Destination]]:
        self.looks += 1
        self.destinations = [destination("b", 4)]
        return super().observe()


def test_a_guest_waits_for_migrations_of_other_hosts() -> None:
    hosts = CrowdedHosts()
    results = evacuate(hosts, [guest(0)])
    assert results["g0"].outcome == MOVED
    assert hosts.looks == 1
    assert hosts.log[0][0] == "waiting"


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 4), max_size=8),
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.integers(1, 5),
    st.sets(st.tuples(st.integers(0, 7), st.integers(0, 2))),
)
def test_no_limit_is_exceeded_when_guests_are_refused(
    counts: list[int], free: list[int], jobs: int, refused: set[tuple[int, int]]
) -> None:
    hosts = FakeHosts([destination(f"p{number}", count) for number, count in enumerate(free)])
    for one, where in refused:
        hosts.refusals[f"g{one}", f"p{where}"] = 1
    guests = [guest(number, count) for number, count in enumerate(counts)]
    results = evacuate(hosts, guests, jobs)
    assert all(most <= LIMIT for most in hosts.most.values())
    for result in results.values():
        assert (result.outcome == MOVED) == (result.destination is not None and not result.problems)
    plan = planner.plan(guests, hosts.destinations)
    if not refused:
        assert {name for name, result in results.items() if result.outcome == MOVED} == {
            each.name for each in guests if each.uuid in plan.moves
        }
