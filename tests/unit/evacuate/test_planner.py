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
from vfmigrate.evacuate.planner import Lanes, Leaver, Place, VfNeed
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


def place(name: str, free: int, **more: int) -> Place:
    return Place(name, f"qemu+ssh://{name}/system", host(name, {"data": [vfs(free, **more)]}))


def guest(number: int, count: int = 1, pool: Optional[str] = "data", **more: object) -> Leaver:
    need = VfNeed(pool, f"52:54:00:00:00:{number:02x}", pf="0000:e1:00.0", **more)  # type: ignore[arg-type]
    return Leaver(f"uuid-{number}", f"g{number}", (need,) * count, 64)


GUESTS = st.lists(st.integers(0, 5), max_size=12).map(
    lambda counts: [guest(number, count) for number, count in enumerate(counts)]
)
PLACES = st.lists(st.integers(0, 8), min_size=1, max_size=3).map(
    lambda free: [place(f"host-{number}", count, taken=1) for number, count in enumerate(free)]
)


@given(GUESTS, PLACES)
def test_no_place_gives_more_than_it_has(guests: list[Leaver], places: list[Place]) -> None:
    plan = planner.plan(guests, places)
    assert set(plan.moves) | set(plan.stuck) == {each.uuid for each in guests}
    assert not set(plan.moves) & set(plan.stuck)
    for each in places:
        assert each.facts is not None
        pool = each.facts.pool("data")
        assert pool is not None
        coming = [one for one in guests if plan.moves.get(one.uuid) == each.name]
        assert sum(one.pools["data"] for one in coming) <= pool.free
        assert all(one.travelling["data"] <= LIMIT for one in coming)


@given(GUESTS, PLACES)
def test_nobody_is_stuck_who_fits(guests: list[Leaver], places: list[Place]) -> None:
    plan = planner.plan(guests, places)
    for each in places:
        assert each.facts is not None
        pool = each.facts.pool("data")
        assert pool is not None
        left = pool.free - sum(one.pools["data"] for one in guests if plan.moves.get(one.uuid) == each.name)
        for one in guests:
            if one.uuid in plan.stuck:
                assert one.pools["data"] > left or one.travelling["data"] > LIMIT
    assert all(one.uuid in plan.moves for one in guests if not one.vfs)


@given(GUESTS, PLACES, st.integers(1, 8), st.integers(0, 4), st.randoms(use_true_random=False))
def test_no_limit_is_ever_exceeded(
    guests: list[Leaver], places: list[Place], jobs: int, others: int, chance: random.Random
) -> None:
    """Guests set out whenever they may and arrive in any order."""
    source = host("here", {"data": [vfs(0, taken=9)]})
    places = [*places[:-1], place(places[-1].name, 8, moving=others)]
    plan = planner.plan(guests, places)
    lanes = Lanes(jobs, source, places)
    waiting = [(one, plan.moves[one.uuid]) for one in guests if one.uuid in plan.moves]
    others_at = Counter({(places[-1].name, "data"): others})
    while waiting or lanes.under_way:
        chance.shuffle(waiting)
        for each in list(waiting):
            if lanes.may_begin(*each):
                lanes.begin(*each)
                waiting.remove(each)
        under_way = lanes.under_way
        assert len(under_way) <= jobs
        assert sum(one.travelling["data"] for one, _ in under_way) <= LIMIT  # all of one card here
        for where in places:
            coming = sum(one.travelling["data"] for one, name in under_way if name == where.name)
            assert coming == 0 or coming + others_at[where.name, "data"] <= LIMIT
        if not under_way:
            assert others  # only others can be in the way of everybody
            break
        lanes.end(chance.choice(under_way)[0])


def test_states_that_do_not_travel_are_not_counted() -> None:
    places = [place("b", 8)]
    lanes = Lanes(9, host("here", {}), places)
    for number in range(6):
        other = guest(number, travels=False)
        assert lanes.may_begin(other, "b")
        lanes.begin(other, "b")
    assert lanes.may_begin(guest(9), "b")


@pytest.mark.parametrize(
    ("leaver", "there", "why"),
    [
        (guest(1), place("b", 0, taken=2), "b: pool 'data' has no VF left"),
        (guest(1, pool="gold"), place("b", 2), "b: there is no pool 'gold'"),
        (
            guest(1, pool=None),
            place("b", 2),
            "b: its VF with MAC 52:54:00:00:00:01 is of no pool of this host",
        ),
        (guest(1, vlans=(43,)), place("b", 2), "b: VLAN 43 is not allowed in pool 'data'"),
        (guest(1, 5), place("b", 9), "b: it has 5 VFs of pool 'data', and a card moves 4 at a time"),
        (
            guest(1, mark=Mark(mac="52:54:00:00:00:01", psid="MT_OTHER")),
            place("b", 2),
            f"b: the card's PSID is MT_OTHER on the source and {PSID} here",
        ),
        (
            guest(1, mark=Mark(mac="52:54:00:00:00:01", msix=16)),
            place("b", 2),
            "b: the VF has 16 MSI-X vectors on the source, but 0000:00:10.1 has 8",
        ),
        (
            guest(1),
            Place("b", "", problem="nobody there"),
            "b: vfmigrated there does not answer: nobody there",
        ),
        (
            guest(1),
            Place(
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
def test_why_a_guest_goes_nowhere(leaver: Leaver, there: Place, why: str) -> None:
    assert planner.plan([leaver], [there]).stuck == {leaver.uuid: why}


def test_a_state_that_stays_behind_needs_no_equal_card() -> None:
    other = guest(1, travels=False, mark=Mark(mac="52:54:00:00:00:01", psid="MT_OTHER"))
    assert planner.plan([other], [place("b", 1)]).moves == {other.uuid: "b"}


def test_guests_are_spread_over_the_places() -> None:
    guests = [guest(number) for number in range(6)]
    plan = planner.plan(guests, [place("b", 4), place("c", 4)])
    assert Counter(plan.moves.values()) == {"b": 3, "c": 3}


def test_the_largest_guest_finds_its_place_first() -> None:
    guests = [guest(1), guest(2), guest(3, 3)]
    plan = planner.plan(guests, [place("b", 3), place("c", 2)])
    assert plan.moves == {"uuid-3": "b", "uuid-1": "c", "uuid-2": "c"}


def test_who_was_refused_goes_elsewhere_and_who_is_under_way_is_counted_once() -> None:
    one, two, three = guest(1), guest(2), guest(3)
    places = [place("b", 2), place("c", 1)]
    assert planner.plan([one], places, refused={one.uuid: {"b"}}).moves == {one.uuid: "c"}
    assert planner.plan([one], places[:1], refused={one.uuid: {"b"}}).stuck == {
        one.uuid: "b: it refused the guest"
    }
    # two is not in b's claims yet
    plan = planner.plan([one, three], places[:1], under_way=[(two, "b")])
    assert (len(plan.moves), len(plan.stuck)) == (1, 1)
    # now it is
    known = [VfFacts("0000:00:10.0", holder="g2", guest=two.uuid), *vfs(3)[1:]]
    arrived = Place("b", "", host("b", {"data": [known]}))
    assert len(planner.plan([one, three], [arrived], under_way=[(two, "b")]).moves) == 2
