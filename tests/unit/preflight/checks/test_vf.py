# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of the VFs: one result for each fault of pools, cards and strategies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Optional

import pytest

from tests.unit.preflight.snapshots import (
    HELD,
    INTERFACE,
    MAC,
    UUID,
    Fault,
    bad,
    check_error,
    check_warning,
    good,
    guest,
    libvirt,
    pf,
    pool,
    the,
    told,
    vf,
)
from vfmigrate.domain.domain_xml import Domain, Standby, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.migrating_guest import GuestVf
from vfmigrate.model import strategy
from vfmigrate.model.host_facts import BridgeFacts, PoolFacts
from vfmigrate.model.pci import PciAddress
from vfmigrate.preflight.snapshot import Snapshot

ON_ONE = (PoolFacts("other", "br-other"),)
STANDBY = Standby("ua-s", MAC, "virtio", "bridge", "br0", openvswitch=True, vlan=42)

#: by what is wrong
ERRORS: Mapping[str, Fault] = {
    "no pool": (told("destination", pools=ON_ONE), "destination", "pool", "its pools: other"),
    "no bridge": (pool("destination", bridge_exists=False), "destination", "bridge", "'br-data'"),
    "smaller MTU": (
        lambda snapshot: pool("source", mtu=9000)(pool("destination", mtu=1500)(snapshot)),
        "pair",
        "mtu",
        "there: pool 'data' has MTU 1500, and 9000 on here: larger frames of the guest would be dropped",
    ),
    "other VLANs": (pool("destination", vlans=(43,)), "destination", "vlan", "VLAN 42"),
    "no free VF": (
        pf("destination", vfs=(vf(1, holder="held by guest 'x'"),)),
        "destination",
        "free-vf",
        "held by guest 'x'",
    ),
    "no VFs": (pf("destination", vfs=()), "destination", "free-vf", "has no free VF"),
    "other firmware": (pf("destination", firmware="28.39.1"), "pair", "card", "28.39.1 on there"),
    "other PSID": (pf("destination", psid="MT_2"), "pair", "card", "MT_2"),
    "other MSI-X": (pf("destination", vfs=(vf(1, msix=8),)), "pair", "card", "16 MSI-X"),
    "bound early": (
        pf("destination", vfs=(vf(1, bound_early=True),)),
        "destination",
        "vf-ready",
        "before it was made migratable",
    ),
    "not migratable": (
        pf("source", vfs=(replace(HELD, migratable=False),)),
        "source",
        "vf",
        "not migratable",
    ),
    "bound too early": (pf("source", vfs=(replace(HELD, bound_early=True),)), "source", "vf", "bound before"),
    "no flag": (pf("source", vfs=(replace(HELD, migratable=None),)), "source", "vf", "firmware of PF"),
    "no flag on a card that needs it": (
        pf("source", pci_id="15b3:101d", vfs=(replace(HELD, migratable=None),)),
        "source",
        "vf",
        "here: the firmware of PF 0000:01:00.0 cannot migrate its VFs",
    ),
    "generic driver": (pf("source", vfs=(replace(HELD, driver="vfio-pci"),)), "source", "vf", "vfio-pci"),
    "unknown VF": (pf("source", vfs=(vf(1),)), "source", "vf", "VF 0000:01:00.2, the VF with MAC"),
}

WARNINGS: Mapping[str, Fault] = {
    "flag off": (
        pf("destination", vfs=(vf(1, migratable=False), vf(2))),
        "destination",
        "vf-ready",
        "not migratable, and was bound to mlx5_vfio_pci before",
    ),
    "crowded": (
        pf("destination", vfs=(vf(1), *(vf(n, holder="reserved", moving=True) for n in range(2, 6)))),
        "destination",
        "free-vf",
        "are migrating already",
    ),
    "crowded source": (
        pf("source", vfs=(HELD, *(vf(n, holder="held", moving=True, state="plugged") for n in range(3, 7)))),
        "source",
        "limit",
        "are migrating already",
    ),
    "no claim": (pf("source", vfs=(replace(HELD, state=None),)), "source", "vf", "has no claim"),
    "pool network stopped": (
        libvirt("destination", networks={"default": True, "vfmigrate-data": False}),
        "destination",
        "pool-network",
        "is stopped",
    ),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_an_error_of_a_vf_is_found(fault: str) -> None:
    check_error(ERRORS[fault])
    assert the(ERRORS[fault][0](good())).remedy


@pytest.mark.parametrize("fault", WARNINGS)
def test_a_warning_about_a_vf_is_found(fault: str) -> None:
    check_warning(WARNINGS[fault])


@pytest.mark.parametrize("pci_id", ["8086:10c9", None])
def test_a_missing_flag_is_accepted_of_a_card_that_may_not_need_it(pci_id: Optional[str]) -> None:
    """None is from an older vfmigrate, whose own findings say it."""
    snapshot = pf("source", pci_id=pci_id, vfs=(replace(HELD, migratable=None),))(good())
    assert bad(pf("destination", pci_id=pci_id, vfs=(vf(1, migratable=None),))(snapshot)) == []


def test_a_vf_reserved_for_this_guest_counts_as_free() -> None:
    reserved = vf(1, holder="reserved for guest 'g'", guest=UUID, state="reserved")
    assert bad(pf("destination", vfs=(reserved,))(good())) == []


def test_a_bond_over_two_pfs_wants_free_vfs_of_two_pfs() -> None:
    other = PciAddress(0, 2, 0, 2)
    second = VfInterface(2, "interface", "52:54:00:00:00:03", other, mark=Mark(pool="data"))
    snapshot = replace(
        good(), vfs=tuple(GuestVf(each, "data", strategy.named("vfio")) for each in (INTERFACE, second))
    )
    assert snapshot.source.facts is not None
    (here,) = snapshot.source.facts.pools
    held = replace(HELD, address=str(other))
    both = (*here.pfs, replace(here.pfs[0], address="0000:02:00.0", vfs=(held,)))
    snapshot = told("source", pools=(replace(here, pfs=both),))(snapshot)
    line = the(pf("destination", vfs=(vf(1), vf(2)))(snapshot))
    assert (line.check, line.severity) == ("free-vf", "warning")
    assert "only one PF of pool 'data' has free VFs, and the guest's are on 2 PFs" in line.text
    assert snapshot.destination.facts is not None
    (there,) = snapshot.destination.facts.pools
    apart = (
        replace(there.pfs[0], vfs=(vf(1),)),
        replace(there.pfs[0], address="0000:02:00.0", vfs=(replace(vf(1), address="0000:02:00.1"),)),
    )
    assert bad(told("destination", pools=(replace(there, pfs=apart),))(snapshot)) == []


def test_more_vfs_than_a_card_can_migrate_are_an_error() -> None:
    several = tuple(
        VfInterface(n, "interface", f"52:54:00:00:00:0{n}", PciAddress(0, 1, 0, n), mark=Mark(pool="data"))
        for n in range(1, 6)
    )
    held = tuple(vf(n, holder="held by guest 'g'", guest=UUID, state="plugged") for n in range(1, 6))
    snapshot = replace(good(), vfs=tuple(GuestVf(each, "data", strategy.named("vfio")) for each in several))
    snapshot = pf("source", vfs=held)(pf("destination", vfs=tuple(vf(n) for n in range(1, 6)))(snapshot))
    lines = bad(snapshot)
    assert [(line.side, line.check, line.severity) for line in lines] == [
        ("source", "limit", "error"),
        ("destination", "free-vf", "warning"),
    ]
    assert "5 VFs of PF 0000:01:00.0" in lines[0].text


def test_replug_needs_vfmigrate_migrate() -> None:
    line = the(replace(good(), vfs=(GuestVf(INTERFACE, "data", strategy.named("replug")),)))
    assert (line.check, line.severity, line.remedy) == (
        "strategy",
        "warning",
        "run: vfmigrate migrate g DESTURI",
    )


def test_a_vf_of_no_pool_is_an_error() -> None:
    line = the(replace(good(), vfs=(GuestVf(replace(INTERFACE, mark=None), None, strategy.named("vfio")),)))
    assert (line.check, line.severity) == ("strategy", "error")
    assert line.text.startswith(f"here: the VF with MAC {MAC} belongs to no pool")


def test_a_vf_whose_mark_is_unclear_is_an_error() -> None:
    """As the destination's hook would refuse the guest."""
    interface = replace(INTERFACE, mark=None)
    snapshot = replace(good(), vfs=(GuestVf(interface, "data", strategy.named("vfio")),))
    stale = Mark(mac="52:54:00:00:00:09", address=PciAddress(0, 9, 0, 1), pool="data", vlan=43)
    domain = replace(snapshot.guest.domain, interfaces=(interface,), marks=(stale,))
    line = the(guest(domain=domain)(snapshot))
    assert (line.check, line.severity) == ("strategy", "error")
    assert "a mark that no VF of the guest has: mac='52:54:00:00:00:09' address='0000:09:00.1'" in line.text


def paired(standby: Optional[Standby]) -> Snapshot:
    interface = replace(INTERFACE, teaming="transient", standby="ua-s")
    snapshot = good(interface, "failover")
    standbys = (standby,) if standby is not None else ()
    return guest(domain=Domain(UUID, "g", (interface,), viommu=False, standbys=standbys))(snapshot)


def test_a_failover_pair_needs_a_standby_in_its_vlan_and_bridge() -> None:
    assert bad(paired(STANDBY)) == []
    line = the(paired(None))
    assert (line.check, line.severity, "no standby" in line.text) == ("strategy", "error", True)
    line = the(paired(replace(STANDBY, vlan=43)))
    assert (line.check, line.severity, "VLAN 43" in line.text) == ("vlan", "error", True)
    line = the(told("destination", bridges=(BridgeFacts("br0"),))(paired(STANDBY)))
    assert "the standby of its failover pair needs" in line.text


def test_a_failover_pair_migrates_without_device_state() -> None:
    """Neither the same firmware nor a flag nor a variant driver."""
    snapshot = paired(STANDBY)
    snapshot = pf("destination", firmware="1.2.3", psid="MT_9")(snapshot)
    snapshot = pf("source", vfs=(replace(HELD, migratable=False, driver="vfio-pci"),))(snapshot)
    assert bad(snapshot) == []


def test_strategy_failover_without_a_standby_is_an_error() -> None:
    interface = replace(INTERFACE, mark=Mark(mac=MAC, pool="data", strategy="failover"))
    line = the(good(interface, "failover"))
    assert "no standby" in line.text


@pytest.mark.parametrize(("here", "there"), [(1500, 9000), (9000, 9000), (None, 1500), (9000, None)])
def test_an_mtu_that_is_no_smaller_or_not_known(here: Optional[int], there: Optional[int]) -> None:
    assert bad(pool("source", mtu=here)(pool("destination", mtu=there)(good()))) == []


def test_a_driver_that_the_guests_xml_selects_is_not_the_kernels_fault() -> None:
    forced = replace(INTERFACE, driver="vfio-pci")
    change = pf("source", vfs=(vf(1), replace(HELD, driver="vfio-pci")))
    line = the(change(good(forced)))
    assert "because the guest's XML has <driver model='vfio-pci'/>" in line.text
    assert line.remedy == "remove this element with virsh edit, then shut the guest down and start it again"
    assert "<driver" not in the(change(good())).text


def test_a_vf_on_conventional_pci_is_reported_with_how_to_move_it() -> None:
    place = guest(obstacles={INTERFACE.position: ("pcie-to-pci-bridge", "move it")})
    line = the(place(good()))
    assert (line.severity, line.remedy) == ("warning", "move it")
    assert line.text.endswith("is on a pcie-to-pci-bridge in guest 'g', not on PCI Express")


def test_a_vf_that_must_be_unplugged_and_cannot_be_is_an_error() -> None:
    place = guest(obstacles={INTERFACE.position: ("pcie-root", "move it")})
    lines = bad(place(good(name="replug")))
    assert "is on a pcie-root in guest 'g', from which it cannot be unplugged" in lines[0].text
    assert lines[0].severity == "error"
    assert bad(place(good())) == []
