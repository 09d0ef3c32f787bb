# SPDX-License-Identifier: GPL-2.0-or-later
"""Reconciling on a host in memory, with a libvirt that only remembers."""

from __future__ import annotations

from dataclasses import replace

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.rig import PF
from tests.unit.daemon.sync_rig import SyncRig, arrived
from vfmigrate.claims import claim_store
from vfmigrate.ovs.openvswitch import PortSettings


def test_reconciling_twice_changes_nothing(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    assert sync_rig.reconciler.reconcile() == []


def test_a_reservation_expires(sync_rig: SyncRig) -> None:
    sync_rig.hook_handler.handle("migrate", "begin", "-", guest(1, ELSEWHERE))
    sync_rig.now += 119
    assert sync_rig.reconciler.reconcile() == []
    sync_rig.now += 2
    (change,) = sync_rig.reconciler.reconcile()
    assert (
        change
        == f"dropped the claim of guest 'guest1' on {sync_rig.memory.vfs[-1]}: it expired before the guest started"
    )
    assert sync_rig.store.all() == []


def test_the_claim_of_a_guest_that_is_gone_is_dropped(sync_rig: SyncRig) -> None:
    before = sync_rig.memory.host.survey(PF)
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    assert sync_rig.libvirt.domains is not None
    del sync_rig.libvirt.domains[uuid]
    assert sync_rig.reconciler.reconcile() == []  # it may be about to appear
    sync_rig.now += 20
    changes = sync_rig.reconciler.reconcile()
    assert (
        changes[0]
        == f"dropped the claim of guest 'guest1' on {sync_rig.memory.vfs[0]}: the guest does not run here"
    )
    assert sync_rig.memory.host.survey(PF) == before


def test_no_claim_is_dropped_while_libvirt_does_not_answer(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    sync_rig.libvirt.domains = None
    sync_rig.now += 1000
    assert sync_rig.reconciler.reconcile() == []


def test_running_guests_are_adopted(sync_rig: SyncRig) -> None:
    xml = guest(1, sync_rig.memory.vfs[0])
    sync_rig.change(xml)
    assert sync_rig.reconciler.reconcile()[0] == f"adopted {sync_rig.memory.vfs[0]} of guest 'guest1'"
    assert len(sync_rig.memory.ovs.ports) == 1
    assert sync_rig.reconciler.reconcile() == []


def test_an_orphaned_port_is_removed_and_the_port_of_a_guest_stays(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    (kept,) = sync_rig.memory.ovs.ports
    sync_rig.memory.ovs.plug("br-data", "vanished0", "claim-of-long-ago", PortSettings())
    assert sync_rig.reconciler.reconcile() == ["unplugged vanished0 from br-data: its guest is gone"]
    assert list(sync_rig.memory.ovs.ports) == [kept]


def test_a_port_that_another_program_removed_is_plugged_again(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    (port,) = list(sync_rig.memory.ovs.ports)
    del sync_rig.memory.ovs.ports[port]
    assert sync_rig.reconciler.reconcile() == [f"plugged {port} into br-data with tag 42"]


def test_a_reconcile_takes_no_claim_from_another_guest(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    other = guest(2, sync_rig.memory.vfs[0])
    sync_rig.change(other)
    sync_rig.reconciler.reconcile()
    (claim,) = sync_rig.store.all()
    assert (claim.domain_name, claim.state) == ("guest1", claim_store.PLUGGED)


def test_a_vf_that_was_unplugged_without_an_event_is_free_after_a_reconcile(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    sync_rig.change(guest(1))
    assert sync_rig.reconciler.reconcile() == []  # it may be about to be plugged in
    sync_rig.now += 20
    assert sync_rig.reconciler.reconcile()[0] == f"guest 'guest1' released {sync_rig.memory.vfs[0]}"
    assert sync_rig.store.of_domain(uuid) == []


def test_a_stopped_network_of_a_pool_is_started(sync_rig: SyncRig) -> None:
    del sync_rig.libvirt.live["vfmigrate-data"]
    assert sync_rig.reconciler.reconcile() == ["started libvirt network vfmigrate-data"]
    assert sync_rig.reconciler.reconcile() == []


def test_the_port_of_a_renamed_representor_is_replaced(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    ports = sync_rig.memory.ovs.ports
    ((name, port),) = ports.items()
    ports["old0"] = replace(port, name="old0")
    assert sync_rig.reconciler.reconcile() == [
        "unplugged old0 from br-data: network device old0 does not exist"
    ]
    assert list(ports) == [name]


def test_a_guest_that_resumed_without_an_event_is_announced(sync_rig: SyncRig) -> None:
    uuid = arrived(sync_rig)
    sync_rig.libvirt.paused = {uuid}
    assert sync_rig.reconciler.reconcile() == []
    sync_rig.libvirt.paused = set()
    assert sync_rig.reconciler.reconcile() == ["guest 'guest1' resumed here without an event"]
    assert sync_rig.arrived == [uuid]
    sync_rig.domain_sync.settle(uuid)
    assert sync_rig.reconciler.reconcile() == []
