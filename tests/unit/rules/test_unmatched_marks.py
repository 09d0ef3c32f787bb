# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks that no VF has and VFs without a mark: found by elimination where there is one way, else refused."""

from __future__ import annotations

from typing import Optional

import pytest

from vfmigrate.config.pool import Pool
from vfmigrate.domain import mark_matching
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import unmatched_marks

MAC = "52:54:00:00:00:02"
OTHER = "52:54:00:00:00:03"
A, B, C, D = (PciAddress(0, 1, 0, function) for function in (1, 2, 3, 4))
DATA = Pool("data", (PciAddress(0, 1, 0, 0),), "br-data", vlans=frozenset({42, 43}))
STORE = Pool("store", (PciAddress(0, 2, 0, 0),), "br-store", vlans=frozenset({42, 43}))


def guest(interfaces: list[VfInterface], *marks: Mark) -> Domain:
    found = mark_matching.match(interfaces, marks)
    marked = tuple(
        VfInterface(each.position, each.form, each.mac, each.address, mark=mark)
        for each, mark in zip(interfaces, found)
    )
    return Domain("u", "web", marked, viommu=False, marks=marks)


def plain(at: int, address: PciAddress) -> VfInterface:
    return VfInterface(at, "hostdev", address=address)


def nic(at: int, mac: str, address: PciAddress) -> VfInterface:
    return VfInterface(at, "interface", mac, address)


def here(domain: Domain, *pools: Optional[Pool], waiting: tuple[str, ...] = ()) -> dict[int, Optional[int]]:
    of = {
        each.position: pool for each, pool in zip(domain.interfaces, pools or [DATA] * 9) if each.mark is None
    }
    return {at: mark.vlan for at, mark in unmatched_marks.here(domain, of, waiting).items()}


def arriving(domain: Domain) -> dict[int, Optional[int]]:
    return {at: mark.vlan for at, mark in unmatched_marks.arriving(domain).items()}


def test_the_only_mark_left_is_that_of_the_only_plain_hostdev_left() -> None:
    moved = guest([plain(0, B)], Mark(mac=MAC, address=A, pool="data", vlan=42))
    assert here(moved) == arriving(moved) == {0: 42}


def test_a_mark_without_an_address_is_that_of_a_plain_hostdev_that_starts() -> None:
    assert here(guest([plain(0, B)], Mark(mac=MAC, pool="data", vlan=42))) == {0: 42}


def test_pools_tell_plain_hostdevs_apart() -> None:
    two = guest(
        [plain(0, B), plain(1, D)],
        Mark(mac=MAC, address=A, pool="store", vlan=43),
        Mark(mac=OTHER, address=C, pool="data", vlan=42),
    )
    assert here(two, DATA, STORE) == {0: 42, 1: 43}


def test_two_plain_hostdevs_that_could_have_either_mark_are_refused() -> None:
    two = guest(
        [plain(0, B), plain(1, D)],
        Mark(mac=MAC, address=A, pool="data", vlan=42),
        Mark(mac=OTHER, address=C, pool="data", vlan=43),
    )
    for ask in (here, arriving):
        with pytest.raises(Refused, match=rf"has nothing for VF {B}, and a mark .*mac='{MAC}' address='{A}'"):
            ask(two)


def test_an_interface_with_another_mac_than_the_mark_is_refused() -> None:
    """A wrong digit in the mark: without it, the VF would get a trunk of all VLANs of the pool."""
    with pytest.raises(Refused, match=f"nothing for the VF with MAC {OTHER}, .*mac='{MAC}'"):
        here(guest([nic(0, OTHER, A)], Mark(mac=MAC, pool="data", vlan=42)))


@pytest.mark.parametrize(
    "mark",
    [
        Mark(mac=MAC, pool="data"),
        Mark(mac=MAC, pool="data", strategy="vfio", psid="MT_1"),
        Mark(mac=MAC, pool="store", vlan=42),
    ],
    ids=["no VLAN", "what the daemon wrote", "another pool"],
)
def test_a_mark_that_would_change_nothing_says_nothing_of_other_interfaces(mark: Mark) -> None:
    assert here(guest([nic(0, OTHER, A)], mark)) == {}


def test_a_mark_written_before_its_vf_is_plugged_in_does_not_disturb() -> None:
    marked = guest(
        [nic(0, OTHER, A)], Mark(mac=OTHER, pool="data", vlan=43), Mark(mac=MAC, pool="data", vlan=42)
    )
    assert here(marked) == arriving(marked) == {}


def test_the_mark_of_a_vf_that_is_plugged_in_later_is_not_given_to_another() -> None:
    domain = guest([plain(0, B)], Mark(mac=MAC, address=A, pool="data", vlan=42, strategy="replug"))
    assert here(domain, waiting=(MAC,)) == {}
    assert arriving(domain) == {}


def test_a_device_of_another_kind_is_left_alone() -> None:
    """A VF of no pool, beside the mark of a VF that is not plugged in."""
    assert here(guest([plain(0, B)], Mark(mac=MAC, pool="data", vlan=42)), None) == {}
    assert arriving(guest([plain(0, B)], Mark(mac=MAC, pool="data", vlan=42))) == {}


@pytest.mark.parametrize(("pool", "of"), [(STORE, "of pool 'store'"), (None, "in no pool of this host")])
def test_a_plain_hostdev_moved_to_a_vf_of_another_pool_is_refused(pool: Optional[Pool], of: str) -> None:
    moved = guest([plain(0, B)], Mark(mac=MAC, address=A, pool="data", vlan=42))
    with pytest.raises(Refused, match=f"is to be of pool 'data' by the vfmigrate metadata, but {B} is {of}"):
        here(moved, pool)


def test_marks_that_nothing_tells_apart_are_refused() -> None:
    one_of_two = guest([nic(0, MAC, C)], *(Mark(mac=MAC, pool="data", vlan=vlan) for vlan in (42, 43)))
    for ask in (here, arriving):
        with pytest.raises(Refused, match=f"1 interface with MAC {MAC} and 2 marks for it"):
            ask(one_of_two)
