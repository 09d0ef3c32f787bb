# SPDX-License-Identifier: GPL-2.0-or-later
"""VFs that the engine chose, alone and in failover pairs."""

from __future__ import annotations

import pytest

from tests.fakes.vdsm_hooks import HookError
from tests.unit.vdsm_plugin.vdsm import (
    VM,
    Vdsm,
    canonical,
    engines_vf,
    in_domain,
    standby,
    transient,
)
from vfmigrate.model.pci import PciAddress


def test_the_vlan_of_the_engines_vf_is_moved_to_the_port(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[1]
    given = in_domain(engines_vf(vf))
    made = vdsm.hooks.xml("before_vm_start", given, VM)
    assert canonical(made) == canonical(in_domain(engines_vf(vf, vlan="")))
    (claim,) = vdsm.store.all()
    assert (claim.vf, claim.vlan, claim.strategy, claim.managed, claim.domain_name) == (
        vf,
        43,
        "replug",
        False,
        "web",
    )


def test_a_vf_of_no_pool_is_left_to_vdsm(vdsm: Vdsm) -> None:
    foreign = PciAddress(0, 1, 0x1F, 7)
    for point, xml in (
        ("before_vm_start", in_domain(engines_vf(foreign))),
        ("before_nic_hotplug", engines_vf(foreign)),
    ):
        assert vdsm.hooks.xml(point, xml, VM) == xml
    assert vdsm.store.all() == []
    assert vdsm.requests == ["claim", "claim"]


def test_the_metadata_of_vdsm_is_kept(vdsm: Vdsm) -> None:
    made = vdsm.hooks.xml("before_vm_start", in_domain(engines_vf(vdsm.memory.vfs[1])), VM)
    assert "<ovirt-vm:vfmigrate_strategy>vfio</ovirt-vm:vfmigrate_strategy>" in made


def test_a_failover_pair_starts_and_comes_back_after_a_migration(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[2]
    vdsm.hooks.xml(
        "before_vm_start", in_domain(standby("ua-p1"), engines_vf(vf, more=transient("ua-p1"))), VM
    )
    assert [claim.strategy for claim in vdsm.store.all()] == ["failover"]
    vdsm.held(vf)
    # the engine unplugs the VF; the standby has the same MAC, and its going changes nothing
    vdsm.hooks.xml("after_nic_hotunplug", standby("ua-p1"), VM)
    assert len(vdsm.store.all()) == 1
    vdsm.memory.sysfs.open_groups.clear()
    vdsm.hooks.xml("after_nic_hotunplug", engines_vf(vf), VM)
    assert vdsm.store.all() == []
    # on the destination, or on the source again
    made = vdsm.hooks.xml("before_nic_hotplug", engines_vf(vf, more=transient("ua-p1")), VM)
    assert "<vlan" not in made
    assert [claim.strategy for claim in vdsm.store.all()] == ["failover"]
    assert vdsm.memory.ovs.ports == {}  # until the guest's driver takes the VF, the standby carries the guest
    vdsm.memory.card.set_bus_master(str(vf), True)
    vdsm.converger.converge(vf)
    assert [port.tag for port in vdsm.memory.ovs.ports.values()] == [43]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (("ua-p1", "ua-p1"), "have the same failover profile"),
        (("ua-p1", "ua-p2"), "no standby with the alias 'ua-p2'"),
    ],
)
def test_a_pair_that_cannot_work_is_refused(vdsm: Vdsm, others: tuple[str, str], words: str) -> None:
    vfs = [
        engines_vf(vdsm.memory.vfs[n], mac=f"56:6f:1a:2b:00:{n:02x}", more=transient(name))
        for n, name in enumerate(others)
    ]
    domain = in_domain(standby("ua-p1", mac="56:6f:1a:2b:00:00"), *vfs)
    with pytest.raises(HookError, match=words):
        vdsm.hooks.xml("before_vm_start", domain, VM)
    assert vdsm.store.all() == []


def test_a_standby_with_another_mac_is_refused(vdsm: Vdsm) -> None:
    domain = in_domain(
        standby("ua-p1", mac="56:6f:1a:2b:00:0f"), engines_vf(vdsm.memory.vfs[0], more=transient("ua-p1"))
    )
    with pytest.raises(HookError, match="has a standby with MAC 56:6f:1a:2b:00:0f"):
        vdsm.hooks.xml("before_vm_start", domain, VM)


def test_a_guest_with_a_gpu_starts_without_the_daemon(vdsm: Vdsm) -> None:
    vdsm.stop()
    domain = in_domain(devices='<hostdev mode="subsystem" type="pci"/>')
    assert vdsm.hooks.xml("before_vm_start", domain, VM) == domain
