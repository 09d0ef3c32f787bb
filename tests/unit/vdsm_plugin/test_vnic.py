# SPDX-License-Identifier: GPL-2.0-or-later
"""A vNIC on a bridge becomes a VF that takes its state along, or is refused."""

from __future__ import annotations

import pytest

from tests.fakes.vdsm_hooks import HookError
from tests.unit.vdsm_plugin.vdsm import (
    BRIDGE,
    MAC,
    VFIO,
    VM,
    Vdsm,
    canonical,
    engines_vf,
    on_vf,
    standby,
)
from vfmigrate.claims import claim_store
from vfmigrate.model.pci import PciAddress


def test_a_vnic_on_a_bridge_becomes_a_vf_of_the_pool(vdsm: Vdsm) -> None:
    made = vdsm.hooks.xml("before_device_create", BRIDGE, VM, device={**VFIO, "vfmigrate_vlan": "43"})
    (claim,) = vdsm.store.all()
    assert canonical(made) == canonical(on_vf(claim.vf))
    assert (claim.domain, claim.mac, claim.vlan, claim.state) == (VM, MAC, 43, claim_store.RESERVED)
    assert claim.expires is not None
    assert "left out, since a VF has no such thing: port, filterref, bandwidth" in vdsm.said
    assert "the network's MTU is 9000, the port's 1500: see mtu of [pool data]" in vdsm.said


def test_a_second_run_changes_nothing(vdsm: Vdsm) -> None:
    made = [vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO) for _ in range(2)]
    assert made[0] == made[1]
    assert len(vdsm.store.all()) == 1
    assert vdsm.hooks.xml("before_device_create", made[0], VM, device=VFIO) == made[0]


def test_a_vnic_without_our_property_is_left_alone(vdsm: Vdsm) -> None:
    for point in ("before_device_create", "before_nic_hotplug"):
        assert vdsm.hooks.xml(point, BRIDGE, VM, device={"queues": "4"}) == BRIDGE
    assert vdsm.hooks.log == [("50_vfmigrate", 0, "")] * 2
    assert vdsm.requests == []


@pytest.mark.parametrize("strategy", ["failover", "replug"])
def test_a_strategy_of_the_profile_does_not_change_the_bridge(vdsm: Vdsm, strategy: str) -> None:
    assert (
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device={"vfmigrate_strategy": strategy}) == BRIDGE
    )
    assert vdsm.requests == []


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"vfmigrate_strategy": "teleport"}, "it may be vfio, failover or replug"),
        ({"vfmigrate_strategy": "vfio\nfailover"}, r"'vfio\\nfailover'; it may be"),
        ({"vfmigrate_pool": ""}, "no name of a pool"),
        ({"vfmigrate_pool": "data\n"}, "no name of a pool"),
        ({"vfmigrate_pool": "../data"}, "no name of a pool"),
        ({"vfmigrate_pool": "p\u00f6\u00f6l"}, "no name of a pool"),
        ({"vfmigrate_pool": "absent"}, "this host has no pool 'absent'; its pools: data"),
        ({"vfmigrate_vlan": "4095"}, "a number from 1 to 4094"),
        ({"vfmigrate_vlan": "43\n"}, "a number from 1 to 4094"),
        ({"vfmigrate_vlan": "\u0664"}, "a number from 1 to 4094"),
        ({"vfmigrate_vlan": "100"}, "VLAN 100 is not allowed in pool 'data'"),
    ],
)
@pytest.mark.parametrize("point", ["before_device_create", "before_nic_hotplug"])
def test_an_invalid_property_stops_vdsm_with_one_line(
    vdsm: Vdsm, point: str, properties: dict[str, str], words: str
) -> None:
    with pytest.raises(HookError, match=words) as refusal:
        vdsm.hooks.xml(point, BRIDGE, VM, device={**VFIO, **properties})
    assert str(refusal.value).count("\n") == 1
    assert str(refusal.value).startswith("vfmigrate: ")
    assert [status for _, status, _ in vdsm.hooks.log] == [2]
    assert vdsm.store.all() == []


def test_hostile_custom_properties_change_nothing(vdsm: Vdsm) -> None:
    trap = vdsm.directory / "trap"
    trap.mkdir()
    for name in ("json", "socket", "hooking", "vfmigrate_vdsm", "sitecustomize"):
        (trap / f"{name}.py").write_text("raise SystemExit('trapped')\n")
    hostile = {
        "PATH": str(trap),
        "PYTHONPATH": str(trap),
        "PYTHONHOME": str(trap),
        "PYTHONSTARTUP": str(trap / "json.py"),
        "HOME": str(trap),
        "LD_LIBRARY_PATH": str(trap),
        "LD_PRELOAD": str(trap / "absent.so"),
        "LC_ALL": "xx_XX.KOI8-R",
        "IFS": "\n",
        "a\nb": "c\nd",
        "_hook_domxml": "/etc/passwd",
        "vmId": "00000000-0000-4000-8000-00000000ffff",
    }
    made = vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO, vm=hostile)
    (claim,) = vdsm.store.all()
    assert canonical(made) == canonical(on_vf(claim.vf))
    assert claim.domain == VM


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (engines_vf(PciAddress(0, 1, 0, 1)), "on a passthrough profile, which the engine unplugs"),
        (standby("ua-1"), "half of a failover pair"),
        (BRIDGE.replace('type="bridge"', 'type="network"'), "of type 'network'"),
        ("<interface type='bridge'/>", "has no MAC address"),
        ("<interface", "cannot be read"),
    ],
)
def test_a_vnic_that_cannot_become_a_vf_is_refused(vdsm: Vdsm, xml: str, words: str) -> None:
    with pytest.raises(HookError, match=words):
        vdsm.hooks.xml("before_device_create", xml, VM, device=VFIO)
    assert vdsm.store.all() == []


def test_other_devices_with_custom_properties_are_left_alone(vdsm: Vdsm) -> None:
    xml = '<hostdev mode="subsystem" type="pci"/>'
    assert vdsm.hooks.xml("before_device_create", xml, VM, device=VFIO) == xml
    assert vdsm.store.all() == []


@pytest.mark.parametrize("point", ["before_device_create", "before_nic_hotplug"])
def test_without_a_daemon_the_guest_does_not_start(vdsm: Vdsm, point: str) -> None:
    vdsm.stop()
    with pytest.raises(HookError, match=r"vfmigrated does not answer .* systemctl start vfmigrated.socket"):
        vdsm.hooks.xml(point, BRIDGE, VM, device=VFIO)


def test_a_user_who_is_no_client_gets_a_remedy(vdsm: Vdsm) -> None:
    vdsm.hooks.user = 65533
    with pytest.raises(
        HookError, match=r"user '65533' has no right to send the request 'claim' to vfmigrated; .* clients"
    ):
        vdsm.hooks.xml("before_device_create", BRIDGE, VM, device=VFIO)
