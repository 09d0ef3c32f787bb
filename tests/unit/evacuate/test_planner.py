# SPDX-License-Identifier: GPL-2.0-or-later
"""Who goes where when a host is emptied, and who may be on the way at the same time: no limit is ever exceeded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmigrate.domain.metadata import Mark
from vfmigrate.evacuate import planner
from vfmigrate.evacuate.planner import Concurrency, Destination, EvacuatingGuest, VfRequirement
from vfmigrate.model.host_facts import HostFacts, MigrationFacts, PfFacts, PoolFacts, SwitchFacts, VfFacts

PSID = "MT_0000000892"
LIMIT = 4


def host(name: str, pools: Mapping[str, Sequence[Sequence[VfFacts]]], **of_pool: object) -> HostFacts:
    """A host with pools of physical functions of VFs."""
    built = []
    for slot, (pool, pfs) in enumerate(pools.items()):
        cards = tuple(
            PfFacts(f"0000:{slot:02x}:{number:02x}.0", psid=PSID, firmware="28", vfs=tuple(vfs))
            for number, vfs in enumerate(pfs)
        )
        built.append(PoolFacts(pool, "br0", True, vlans=(42,), pfs=cards, **of_pool))  # type: ignore[arg-type]
    return HostFacts(name, "0.1.0", "6.12", 0.0, SwitchFacts(), MigrationFacts(), tuple(built))


def vfs(free: int, taken: int = 0, moving: int = 0, slot: int = 0) -> list[VfFacts]:
    """VFs of one physical function."""
    return [
        VfFacts(
            f"0000:{slot:02x}:10.{number % 8}"
            if number < 8
            else f"0000:{slot:02x}:{16 + number // 8:02x}.{number % 8}",
            msix=8,
            holder=None if number < free else "a guest",
            moving=free <= number < free + moving,
        )
        for number in range(free + taken + moving)
    ]


def destination(name: str, free: int, **more: int) -> Destination:
    return Destination(name, f"qemu+ssh://{name}/system", host(name, {"data": [vfs(free, **more)]}))


def guest(number: int, count: int = 1, pool: Optional[str] = "data", **more: object) -> EvacuatingGuest:
    need = VfRequirement(pool, f"52:54:00:00:00:{number:02x}", pf="0000:e1:00.0", **more)  # type: ignore[arg-type]
    return EvacuatingGuest(f"uuid-{number}", f"g{number}", (need,) * count, 64)


GUESTS = st.lists(st.integers(0, 5), max_size=12).map(
    lambda counts: [guest(number, count) for number, count in enumerate(counts)]
)
PLACES = st.lists(st.integers(0, 8), min_size=1, max_size=3).map(
    lambda free: [destination(f"host-{number}", count, taken=1) for number, count in enumerate(free)]
)


@given(GUESTS, PLACES)
def test_no_plan_uses_more_vfs_than_are_free(
    guests: list[EvacuatingGuest], destinations: list[Destination]
) -> None:
    plan = planner.plan(guests, destinations)
    assert set(plan.moves) | set(plan.obstacles) == {each.uuid for each in guests}
    assert not set(plan.moves) & set(plan.obstacles)
    for each in destinations:
        assert each.facts is not None
        pool = each.facts.pool("data")
        assert pool is not None
        coming = [one for one in guests if plan.moves.get(one.uuid) == each.name]
        assert sum(one.pools["data"] for one in coming) <= pool.free
        assert all(one.vfs_with_state["data"] <= LIMIT for one in coming)


@given(GUESTS, PLACES)
def test_each_guest_that_fits_is_planned(
    guests: list[EvacuatingGuest], destinations: list[Destination]
) -> None:
    plan = planner.plan(guests, destinations)
    for each in destinations:
        assert each.facts is not None
        pool = each.facts.pool("data")
        assert pool is not None
        left = pool.free - sum(one.pools["data"] for one in guests if plan.moves.get(one.uuid) == each.name)
        for one in guests:
            if one.uuid in plan.obstacles:
                assert one.pools["data"] > left or one.vfs_with_state["data"] > LIMIT
    assert all(one.uuid in plan.moves for one in guests if not one.vfs)


@given(GUESTS, PLACES, st.integers(1, 8), st.integers(0, 4), st.randoms(use_true_random=False))
def test_no_limit_of_simultaneous_migrations_is_exceeded(
    guests: list[EvacuatingGuest],
    destinations: list[Destination],
    jobs: int,
    others: int,
    chance: random.Random,
) -> None:
    """Guests set out whenever they may and arrive in any order."""
    source = host("here", {"data": [vfs(0, taken=9)]})
    destinations = [*destinations[:-1], destination(destinations[-1].name, 8, moving=others)]
    plan = planner.plan(guests, destinations)
    concurrency = Concurrency(jobs, source, destinations)
    waiting = [(one, plan.moves[one.uuid]) for one in guests if one.uuid in plan.moves]
    others_at = Counter({(destinations[-1].name, "data"): others})
    while waiting or concurrency.migrating:
        chance.shuffle(waiting)
        for each in list(waiting):
            if concurrency.can_start(*each):
                concurrency.start(*each)
                waiting.remove(each)
        migrating = concurrency.migrating
        assert len(migrating) <= jobs
        assert sum(one.vfs_with_state["data"] for one, _ in migrating) <= LIMIT  # all of one card here
        for where in destinations:
            coming = sum(one.vfs_with_state["data"] for one, name in migrating if name == where.name)
            assert coming == 0 or coming + others_at[where.name, "data"] <= LIMIT
        if not migrating:
            assert others  # only others can be in the way of everybody
            break
        concurrency.end(chance.choice(migrating)[0])


def test_vfs_without_device_state_are_not_counted() -> None:
    destinations = [destination("b", 8)]
    concurrency = Concurrency(9, host("here", {}), destinations)
    for number in range(6):
        other = guest(number, with_state=False)
        assert concurrency.can_start(other, "b")
        concurrency.start(other, "b")
    assert concurrency.can_start(guest(9), "b")


@pytest.mark.parametrize(
    ("found", "there", "why"),
    [
        (guest(1), destination("b", 0, taken=2), "b: pool 'data' has no free VF left"),
        (guest(1, pool="gold"), destination("b", 2), "b: there is no pool 'gold'"),
        (
            guest(1, pool=None),
            destination("b", 2),
            "b: the VF with MAC 52:54:00:00:00:01 belongs to no pool of the source",
        ),
        (guest(1, vlans=(43,)), destination("b", 2), "b: pool 'data' does not allow VLAN 43"),
        (
            guest(1, 5),
            destination("b", 9),
            "b: the guest has 5 VFs of pool 'data', and a card migrates 4 at a time",
        ),
        (
            guest(1, mark=Mark(mac="52:54:00:00:00:01", psid="MT_OTHER")),
            destination("b", 2),
            f"b: the card's PSID is MT_OTHER on the source and {PSID} on the destination",
        ),
        (
            guest(1, mark=Mark(mac="52:54:00:00:00:01", msix=16)),
            destination("b", 2),
            "b: the VF has 16 MSI-X vectors on the source, but 0000:00:10.1 on the destination has 8",
        ),
        (
            guest(1),
            Destination("b", "", problem="nobody there"),
            "b: vfmigrated does not answer: nobody there",
        ),
        (
            guest(1),
            Destination(
                "b",
                "",
                HostFacts(
                    "b", "0", "6", 0.0, SwitchFacts(), MigrationFacts(), (PoolFacts("data", "br9", False),)
                ),
            ),
            "b: there is no bridge 'br9'",
        ),
    ],
)
def test_a_guest_without_destination_has_the_reason(
    found: EvacuatingGuest, there: Destination, why: str
) -> None:
    assert planner.plan([found], [there]).obstacles == {found.uuid: why}


def test_a_vf_without_device_state_needs_no_equal_card() -> None:
    other = guest(1, with_state=False, mark=Mark(mac="52:54:00:00:00:01", psid="MT_OTHER"))
    assert planner.plan([other], [destination("b", 1)]).moves == {other.uuid: "b"}


def test_guests_are_spread_over_the_destinations() -> None:
    guests = [guest(number) for number in range(6)]
    plan = planner.plan(guests, [destination("b", 4), destination("c", 4)])
    assert Counter(plan.moves.values()) == {"b": 3, "c": 3}


def test_the_guest_with_most_vfs_is_planned_first() -> None:
    guests = [guest(1), guest(2), guest(3, 3)]
    plan = planner.plan(guests, [destination("b", 3), destination("c", 2)])
    assert plan.moves == {"uuid-3": "b", "uuid-1": "c", "uuid-2": "c"}


def test_a_refused_guest_gets_another_destination_and_migrating_guests_count_once() -> None:
    one, two, three = guest(1), guest(2), guest(3)
    destinations = [destination("b", 2), destination("c", 1)]
    assert planner.plan([one], destinations, refused={one.uuid: {"b"}}).moves == {one.uuid: "c"}
    assert planner.plan([one], destinations[:1], refused={one.uuid: {"b"}}).obstacles == {
        one.uuid: "b: refused the guest"
    }
    # two is not in b's claims yet
    plan = planner.plan([one, three], destinations[:1], migrating=[(two, "b")])
    assert (len(plan.moves), len(plan.obstacles)) == (1, 1)
    # now it is
    known = [VfFacts("0000:00:10.0", holder="g2", guest=two.uuid), *vfs(3)[1:]]
    arrived = Destination("b", "", host("b", {"data": [known]}))
    assert len(planner.plan([one, three], [arrived], migrating=[(two, "b")]).moves) == 2
