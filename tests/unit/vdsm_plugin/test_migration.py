# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest leaves one host and comes to another."""

from __future__ import annotations

import pytest

from tests.fakes.vdsm_hooks import HookError
from tests.unit.vdsm_plugin.vdsm import POOL, VM, Vdsm, in_domain, mark, on_vf, running, standby
from vfmigrate.model.pci import PciAddress


def test_a_guest_that_can_migrate_may_leave(vdsm: Vdsm) -> None:
    vf = running(vdsm)
    before = vdsm.store.all()
    for _ in range(2):
        vdsm.hooks.xml("before_vm_migrate_source", in_domain(on_vf(vf), marks=mark(vf)), VM)
    assert vdsm.store.all() == before
    assert vdsm.requests[-2:] == ["departure", "departure"]


def test_a_guest_that_cannot_migrate_is_stopped(vdsm: Vdsm) -> None:
    vf = running(vdsm)
    with pytest.raises(HookError, match=rf"does not contain VF {vf} yet.*vfmigrate reconcile"):
        vdsm.hooks.xml("before_vm_migrate_source", in_domain(on_vf(vf)), VM)
    with pytest.raises(HookError, match="virtual IOMMU"):
        vdsm.hooks.xml(
            "before_vm_migrate_source",
            in_domain(on_vf(vf), marks=mark(vf), devices="<iommu model='intel'/>"),
            VM,
        )


def test_the_departure_of_a_guest_with_an_unplugged_vf_is_announced_to_the_daemon(vdsm: Vdsm) -> None:
    marks = mark(vdsm.memory.vfs[0]).replace("strategy='vfio'", "strategy='failover'")
    vdsm.hooks.xml("before_vm_migrate_source", in_domain(standby("ua-p1"), marks=marks), VM)
    assert vdsm.requests == ["departure"]


def test_an_arriving_guest_claims_the_vf_of_its_xml(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[0]
    given = in_domain(on_vf(vf), marks=mark(vf))
    for _ in range(2):
        assert vdsm.hooks.xml("before_vm_migrate_destination", given, VM) == given
    (claim,) = vdsm.store.all()
    assert (claim.vf, claim.incoming, claim.vlan, claim.domain_name) == (vf, True, 43, "web")
    assert claim.expires is not None
    # it did not come after all: vdsm destroys what it had prepared
    vdsm.hooks.xml("after_vm_destroy", given, VM)
    assert vdsm.store.all() == []


def test_an_arrival_that_cannot_work_is_refused_and_leaves_nothing(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[0]
    with pytest.raises(HookError, match="PSID is MT_0000000001 on the source"):
        vdsm.hooks.xml(
            "before_vm_migrate_destination", in_domain(on_vf(vf), marks=mark(vf, psid="MT_0000000001")), VM
        )
    absent = PciAddress(0, 1, 0x1F, 7)
    with pytest.raises(HookError, match=r"0000:01:1f.7 is not a VF of pool 'data' on this host; vdsm needs"):
        vdsm.hooks.xml("before_vm_migrate_destination", in_domain(on_vf(absent), marks=mark(absent)), VM)
    assert vdsm.store.all() == []


def test_an_arrival_at_a_vf_of_another_guest_is_refused(vdsm: Vdsm) -> None:
    vf = running(vdsm)
    other = "00000000-0000-4000-8000-0000000000bb"
    given = in_domain(on_vf(vf), marks=mark(vf)).replace(VM, other)
    with pytest.raises(
        HookError, match=rf"VF {vf} of pool 'data' cannot be given to guest 'web': it is held by"
    ):
        vdsm.hooks.xml("before_vm_migrate_destination", given, other)
    assert [claim.domain for claim in vdsm.store.all()] == [VM]


def test_an_arrival_beyond_the_cards_limit_is_refused(vdsm: Vdsm) -> None:
    guests = [f"00000000-0000-4000-8000-0000000000c{n}" for n in range((POOL.max_migrating or 0) + 1)]
    given = [
        in_domain(on_vf(vf), marks=mark(vf)).replace(VM, guest) for vf, guest in zip(vdsm.memory.vfs, guests)
    ]
    for xml, guest in zip(given[:-1], guests):
        for _ in range(2):  # a retry is no further guest
            vdsm.hooks.xml("before_vm_migrate_destination", xml, guest)
    with pytest.raises(HookError, match="already migrating"):
        vdsm.hooks.xml("before_vm_migrate_destination", given[-1], guests[-1])
    assert sorted(claim.domain for claim in vdsm.store.all()) == guests[:-1]
    vdsm.hooks.xml("after_vm_destroy", given[0], guests[0])  # one of them did not come after all
    vdsm.hooks.xml("before_vm_migrate_destination", given[-1], guests[-1])
    assert sorted(claim.domain for claim in vdsm.store.all()) == guests[1:]


def test_only_the_first_reason_is_printed_when_the_daemon_goes_away(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[0]
    vdsm.stop()
    with pytest.raises(HookError, match="does not answer"):
        vdsm.hooks.xml("before_vm_migrate_destination", in_domain(on_vf(vf), marks=mark(vf)), VM)
    assert vdsm.said.count("vfmigrate: ") == 1
