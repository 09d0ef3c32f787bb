# SPDX-License-Identifier: GPL-2.0-or-later
"""Events that are handled late: the hook did not wait for a daemon that stood still."""

from __future__ import annotations

import pytest

from tests.fakes.guest_xml import guest
from tests.fakes.rig import Rig


def held(rig: Rig, index: int) -> set[str]:
    """What a QEMU that has this VF holds open."""
    return {str(rig.memory.vfs[index])}


@pytest.mark.parametrize("operation", ["stopped", "release"])
def test_a_late_end_event_of_a_guest_that_runs_again_is_ignored(rig: Rig, operation: str) -> None:
    xml = guest(1, rig.memory.vfs[2])
    rig.run(xml)
    rig.memory.sysfs.open_groups.update(held(rig, 2))
    before = rig.store.all()
    rig.hook_handler.handle(operation, "end", "-", xml, happened=rig.now - 5)
    assert rig.store.all() == before
    assert len(rig.memory.ovs.ports) == 1


@pytest.mark.parametrize("operation", ["stopped", "release"])
def test_a_late_end_event_of_a_guest_that_is_gone_removes_its_port(rig: Rig, operation: str) -> None:
    xml = guest(1, rig.memory.vfs[2])
    rig.run(xml)
    rig.hook_handler.handle(operation, "end", "-", xml, happened=rig.now - 500)
    assert not rig.memory.ovs.ports


def test_an_end_event_in_time_is_handled_while_qemu_still_has_the_vf(rig: Rig) -> None:
    """QEMU may close its VF a moment after libvirt sees it end."""
    xml = guest(1, rig.memory.vfs[2])
    rig.run(xml)
    rig.memory.sysfs.open_groups.update(held(rig, 2))
    rig.hook_handler.handle("stopped", "end", "-", xml, happened=rig.now)
    assert not rig.memory.ovs.ports
