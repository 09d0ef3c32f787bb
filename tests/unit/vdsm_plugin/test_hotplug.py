# SPDX-License-Identifier: GPL-2.0-or-later
"""vNICs are plugged into a running guest and out of it."""

from __future__ import annotations

from tests.unit.vdsm_plugin.vdsm import BRIDGE, VFIO, VM, Vdsm, canonical, on_vf


def test_a_hot_plugged_vf_is_claimed_kept_and_given_back(vdsm: Vdsm) -> None:
    made = vdsm.hooks.xml("before_nic_hotplug", BRIDGE, VM, device=VFIO)
    (claim,) = vdsm.store.all()
    assert canonical(made) == canonical(on_vf(claim.vf))
    assert [port.tag for port in vdsm.memory.ovs.ports.values()] == [42]
    vdsm.memory.sysfs.open_groups.add(str(claim.vf))
    vdsm.hooks.xml("after_nic_hotplug", made, VM, device=VFIO)
    assert [claim.expires for claim in vdsm.store.all()] == [None]
    vdsm.memory.sysfs.open_groups.clear()
    # vdsm hands over what it remembers of the vNIC, which is the bridge's
    vdsm.hooks.xml("after_nic_hotunplug", BRIDGE, VM, device=VFIO)
    assert (vdsm.store.all(), vdsm.memory.ovs.ports) == ([], {})


def test_a_failed_plug_gives_the_vf_back(vdsm: Vdsm) -> None:
    made = vdsm.hooks.xml("before_nic_hotplug", BRIDGE, VM, device=VFIO)
    for _ in range(2):
        vdsm.hooks.xml("after_nic_hotplug_fail", made, VM, device=VFIO)
    assert (vdsm.store.all(), vdsm.memory.ovs.ports) == ([], {})


def test_failures_that_cannot_stop_vdsm_are_only_logged(vdsm: Vdsm) -> None:
    vdsm.stop()
    for point in ("after_nic_hotplug", "after_nic_hotplug_fail", "after_nic_hotunplug"):
        vdsm.hooks.xml(point, BRIDGE, VM, device=VFIO)
    assert [status for _, status, _ in vdsm.hooks.log] == [0, 0, 0]
    assert vdsm.said.count("vfmigrated does not answer") == 3
