# SPDX-License-Identifier: GPL-2.0-or-later
"""The choice of a VF, and the reasons against it in words."""

from __future__ import annotations

import pytest

from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.config.setting import ALL_VLANS
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import compatibility
from vfmigrate.rules.compatibility import Candidate, CardFacts

PF = PciAddress(0, 1, 0, 0)
VFS = [PciAddress(0, 1, 0x10, function) for function in range(3)]
POOL = Pool("data", (PF,), "br-data", vlan=42, vlans=frozenset({43}))


def test_the_last_free_vf_is_chosen() -> None:
    candidates = [Candidate(VFS[0]), Candidate(VFS[1]), Candidate(VFS[2], "held by guest 'x'")]
    assert compatibility.choose(POOL, candidates) == VFS[1]


def test_no_free_vf_names_the_pool_and_the_holders() -> None:
    candidates = [Candidate(vf, f"held by guest 'g{vf.function}'") for vf in VFS[:2]]
    with pytest.raises(Refused) as error:
        compatibility.choose(POOL, candidates)
    assert "pool 'data' has no free VF" in error.value.problem
    assert "0000:01:10.0 held by guest 'g0'; 0000:01:10.1 held by guest 'g1'" in error.value.problem


def test_a_pool_without_vfs_has_a_remedy() -> None:
    with pytest.raises(
        Refused,
        match=r"has no VFs on this host; set vfs in .pool data. .PFs: 0000:01:00.0. and run: vfmigrate provision",
    ):
        compatibility.choose(POOL, [])


def test_an_unknown_pool_is_refused_with_the_known_ones() -> None:
    config = Config({"data": POOL, "lab": POOL})
    with pytest.raises(Refused, match="pool 'prod', which this host does not have: its pools are data, lab"):
        compatibility.pool_for(Mark(mac="52:54:00:00:00:01", pool="prod"), config)
    assert compatibility.pool_for(Mark(mac="52:54:00:00:00:01"), config) is None


@pytest.mark.parametrize(
    ("vlans", "trunks"),
    [
        (frozenset({43, 42}), (42, 43)),
        (frozenset(), (0,)),  # frames without a tag, and no others
        (ALL_VLANS, ()),  # which is Open vSwitch's trunk of all VLANs
    ],
)
def test_a_guest_without_a_vlan_gets_those_of_the_pool(
    vlans: frozenset[int], trunks: tuple[int, ...]
) -> None:
    pool = Pool("data", (PF,), "br-data", vlans=vlans)
    interface = VfInterface(0, "interface", None, None, mark=Mark(pool="data"))
    assert compatibility.port_vlan(interface, pool) == (None, trunks)
    named = VfInterface(0, "interface", None, None, mark=Mark(pool="data", trunks=trunks[:1]))
    if trunks[:1] != (0,):
        assert compatibility.port_vlan(named, pool) == (None, trunks[:1])


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        (None, (42, ())),
        (Mark(mac="52:54:00:00:00:01"), (42, ())),
        (Mark(mac="52:54:00:00:00:01", vlan=43), (43, ())),
        (Mark(mac="52:54:00:00:00:01", trunks=(42, 43)), (42, (42, 43))),
    ],
)
def test_the_vlan_of_the_mark_precedes_that_of_the_pool(mark: Mark, expected: object) -> None:
    assert compatibility.port_vlan(VfInterface(0, "interface", mark=mark), POOL) == expected


@pytest.mark.parametrize(
    "mark", [Mark(mac="52:54:00:00:00:01", vlan=44), Mark(mac="52:54:00:00:00:01", trunks=(1,))]
)
def test_metadata_cannot_choose_a_vlan_beyond_the_configuration(mark: Mark) -> None:
    with pytest.raises(Refused, match="is not allowed in pool 'data'; add it to the vlans"):
        compatibility.port_vlan(VfInterface(0, "interface", mark=mark), POOL)


@pytest.mark.parametrize(
    ("here", "told"),
    [
        (CardFacts("MT_2", "28.41.1000", 9), "PSID is MT_1 on the source and MT_2 on the destination"),
        (
            CardFacts("MT_1", "28.42.1000", 9),
            "firmware is 28.41.1000 on the source and 28.42.1000 on the destination",
        ),
        (
            CardFacts("MT_1", "28.41.1000", 12),
            "9 MSI-X vectors on the source, but 0000:01:10.0 on the destination has 12",
        ),
    ],
)
def test_an_incompatible_card_is_refused_with_both_values(here: CardFacts, told: str) -> None:
    mark = Mark(mac="52:54:00:00:00:01", psid="MT_1", firmware="28.41.1000", msix=9)
    with pytest.raises(Refused, match=told):
        compatibility.check_compatible(mark, VFS[0], here)


def test_a_value_that_one_side_does_not_know_is_not_compared() -> None:
    compatibility.check_compatible(Mark(mac="52:54:00:00:00:01"), VFS[0], CardFacts("MT_2", "1", 3))
    compatibility.check_compatible(
        Mark(mac="52:54:00:00:00:01", psid="MT_1"), VFS[0], CardFacts(None, None, None)
    )


def test_a_virtual_iommu_is_refused_for_state_but_not_for_failover() -> None:
    state = VfInterface(0, "interface")
    pair = VfInterface(0, "interface", teaming="transient")
    guest = Domain("u", "g", (state,), viommu=True)
    with pytest.raises(Refused, match="has a virtual IOMMU"):
        compatibility.check_guest(guest, [state])
    compatibility.check_guest(guest, [pair])


def test_a_vlan_element_is_refused_with_a_remedy() -> None:
    with pytest.raises(Refused, match="the Open vSwitch port gets the tag"):
        compatibility.check_vlan_element(VfInterface(0, "interface", mac="52:54:00:00:00:01", vlan=True))
