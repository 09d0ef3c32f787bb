# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest ends, or has nothing of ours."""

from __future__ import annotations

import pytest

from tests.unit.vdsm_plugin.vdsm import BRIDGE, POINTS, VFIO, VM, Vdsm, in_domain, mark, on_vf, running


def test_a_destroyed_guest_gives_its_vf_back_when_no_process_holds_it(vdsm: Vdsm) -> None:
    vf = running(vdsm)
    vdsm.hooks.xml("after_vm_destroy", in_domain(on_vf(vf)), VM)
    assert len(vdsm.store.all()) == 1
    vdsm.memory.sysfs.open_groups.clear()
    for _ in range(2):
        vdsm.hooks.xml("after_vm_destroy", in_domain(on_vf(vf)), VM)
    assert vdsm.store.all() == []


def test_a_guest_that_never_started_gives_its_reserved_vfs_back(vdsm: Vdsm) -> None:
    vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
    assert len(vdsm.store.all()) == 1
    # a later hook refused: what vdsm knows of the guest is what the engine sent
    vdsm.hooks.xml("after_vm_destroy", in_domain(BRIDGE.split("?>")[1]), VM)
    assert vdsm.store.all() == []


def test_a_guest_whose_vf_address_is_missing_here_is_reported(vdsm: Vdsm) -> None:
    vf = vdsm.memory.vfs[0]
    given = in_domain(on_vf(vf), marks=mark(vf))
    vdsm.hooks.xml("after_vm_destroy", given, VM)  # it was here, or could have been
    assert vdsm.said == ""
    (vdsm.directory / "devices" / str(vf)).rmdir()
    vdsm.hooks.xml("after_vm_destroy", given, VM)
    assert (
        f"its VF is {vf}, and this host has no such device: vdsm needs the VFs of pool 'data' at the same"
        in vdsm.said
    )
    assert [status for _, status, _ in vdsm.hooks.log] == [0, 0]


@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("after_get")])
def test_empty_input_changes_nothing(vdsm: Vdsm, point: str) -> None:
    for _ in range(2):
        assert vdsm.hooks.xml(point, None, VM) == ""
        assert vdsm.hooks.xml(point, None, VM, device=VFIO) == ""
    assert {status for _, status, _ in vdsm.hooks.log} == {0}
    assert vdsm.requests == []


@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("after_get")])
def test_the_daemon_is_not_asked_about_a_guest_without_a_vf(vdsm: Vdsm, point: str) -> None:
    for xml in (BRIDGE, in_domain(BRIDGE.split("?>")[1], properties="<ovirt-vm:queues>4</ovirt-vm:queues>")):
        assert vdsm.hooks.xml(point, xml, VM) == xml
    assert {(status, err) for _, status, err in vdsm.hooks.log} == {(0, "")}
    assert vdsm.requests == []
