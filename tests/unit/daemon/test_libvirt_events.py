# SPDX-License-Identifier: GPL-2.0-or-later
"""What libvirt's events lead to."""

from __future__ import annotations

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.rig import PF
from tests.unit.daemon.sync_rig import SyncRig, arrived
from vfmigrate.virt.lifecycle import LifecycleEvent


def test_only_a_guest_that_resumes_after_a_migration_is_announced(sync_rig: SyncRig) -> None:
    uuid = arrived(sync_rig)
    sync_rig.announcer.warm(uuid)
    sync_rig.events.handle(LifecycleEvent(uuid, "guest1", "resumed", "unpaused"))
    sync_rig.events.handle(LifecycleEvent("11111111-0000-4000-8000-000000000000", "x", "resumed", "migrated"))
    assert sync_rig.memory.ovs.frames == []
    sync_rig.events.handle(LifecycleEvent(uuid, "guest1", "resumed", "migrated"))
    assert sync_rig.memory.ovs.sent.wait(10)
    bridge, _, frame = sync_rig.memory.ovs.frames[0]
    assert (bridge, frame[6:12].hex(":")) == ("br-data", "52:54:00:00:01:00")


def test_a_restored_guest_is_announced_as_well(sync_rig: SyncRig) -> None:
    rewritten = sync_rig.hook_handler.handle("restore", "begin", "-", guest(1, ELSEWHERE))
    assert rewritten is not None
    uuid = sync_rig.start(rewritten)
    sync_rig.events.handle(LifecycleEvent(uuid, "guest1", "started", "restored"))
    assert sync_rig.memory.ovs.sent.wait(10)
    assert sync_rig.hook_handler.slots.guests(PF) == []
