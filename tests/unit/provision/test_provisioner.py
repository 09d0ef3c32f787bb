# SPDX-License-Identifier: GPL-2.0-or-later
"""Provisioning a host in memory: everything once, nothing twice, and never under a running guest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.card import SWITCHDEV
from tests.fakes.rig import PF
from tests.unit.provision.provision_rig import POOL, MakeProvisionRig, ProvisionRig, texts
from vfmigrate.config.pool import Pool
from vfmigrate.domain import network_xml
from vfmigrate.errors import UsageError
from vfmigrate.model.pci import PciAddress

#: as a dry run lists them
PLANNED = [
    "set sriov_drivers_autoprobe of PF 0000:01:00.0 to 0",
    "set the eswitch of PF 0000:01:00.0 to switchdev (its link goes down meanwhile)",
    "create 4 VFs on PF 0000:01:00.0",
    "set migratable of the 4 VFs of PF 0000:01:00.0",
    "set other_config hw-offload=true max-idle=300000 of Open vSwitch",
    "create bridge br-data",
    "bring enp1s0f0np0 up",
    "plug enp1s0f0np0 into br-data",
    "define libvirt network vfmigrate-data with 4 VFs",
    "start libvirt network vfmigrate-data",
    "set libvirt network vfmigrate-data to autostart",
]
#: as they are reported when they were made
CHANGES = [
    "set sriov_drivers_autoprobe of PF 0000:01:00.0 to 0",
    "set the eswitch of PF 0000:01:00.0 to switchdev (its link goes down meanwhile)",
    "created 4 VFs on PF 0000:01:00.0",
    "set migratable of the 4 VFs of PF 0000:01:00.0",
    "set other_config hw-offload=true max-idle=300000 of Open vSwitch",
    "created bridge br-data",
    "brought enp1s0f0np0 up",
    "plugged enp1s0f0np0 into br-data",
    "defined libvirt network vfmigrate-data with 4 VFs",
    "started libvirt network vfmigrate-data",
    "set libvirt network vfmigrate-data to autostart",
]
RESTART = (
    "hardware offload has no effect before Open vSwitch is restarted: systemctl restart ovs-vswitchd.service"
)


def test_a_host_is_provisioned_in_the_kernels_order_and_once(rig: ProvisionRig) -> None:
    outcome = rig.provision()
    assert (outcome["error"], outcome["changes"]) == (None, CHANGES)
    assert texts(outcome) == [RESTART]
    assert rig.card.eswitch_mode(str(PF)) == SWITCHDEV
    assert [port.migratable for port in rig.memory.devlink.vf_ports(PF).values()] == [True] * 4
    assert [each.driver for each in rig.card.functions() if each.pf] == [None] * 4
    assert rig.memory.ovs.uplinks == {"enp1s0f0np0": "br-data"}
    assert network_xml.vfs(rig.libvirt.live["vfmigrate-data"]) == rig.memory.sysfs.vfs(PF)
    done = len(rig.card.trace)
    again = rig.provision()
    assert (again["error"], again["changes"]) == (None, [])
    assert texts(again) == [RESTART]  # still due
    assert len(rig.card.trace) == done


def test_a_card_that_needs_no_flag_is_provisioned(make_rig: MakeProvisionRig) -> None:
    rig = make_rig(vendor=0x7777, migration=False, firmware="1.0")
    outcome = rig.provision()
    prepared = [text.replace("set migratable of", "prepared") for text in CHANGES]
    assert (outcome["error"], outcome["changes"], texts(outcome)) == (None, prepared, [RESTART])
    assert rig.provision()["changes"] == []


def test_a_card_whose_vfs_lack_the_flag_is_an_error(make_rig: MakeProvisionRig) -> None:
    rig = make_rig(migration=False)
    rig.card.numvfs(str(PF), "4")
    rig.card.set_eswitch_mode(str(PF), SWITCHDEV)
    outcome = rig.provision()
    assert "the firmware of PF 0000:01:00.0 cannot migrate its VFs" in texts(outcome)
    assert outcome["error"]["problem"].startswith("pool 'data' is not provisioned: the firmware of PF")


def test_a_dry_run_lists_the_changes_and_makes_none(rig: ProvisionRig) -> None:
    outcome = rig.provision(dry_run=True)
    assert outcome["changes"] == PLANNED
    assert rig.card.trace == []
    assert (rig.memory.ovs.bridges, rig.memory.ovs.other_config, rig.libvirt.persistent) == (set(), {}, {})
    assert rig.provision()["changes"] == CHANGES


def test_an_uplink_on_another_bridge_is_refused(rig: ProvisionRig) -> None:
    rig.memory.ovs.uplinks["enp1s0f0np0"] = "br-ex"
    error = rig.provision()["error"]
    assert error["problem"] == "uplink enp1s0f0np0 of pool 'data' is on bridge br-ex, not on br-data"
    assert error["remedy"] == "if nothing needs it there: ovs-vsctl del-port br-ex enp1s0f0np0"
    assert rig.card.trace == []  # found before anything was made


def test_an_uplink_that_the_host_uses_stops_the_pool(rig: ProvisionRig) -> None:
    (uplink,) = [port.ifindex for port in rig.memory.devlink.ports(PF) if port.flavour == "physical"]
    assert uplink is not None
    rig.memory.links.ip_addresses[uplink] = ["192.0.2.5/24"]
    for dry_run in (True, False):
        error = rig.provision(dry_run=dry_run)["error"]
        assert error["problem"].startswith("uplink enp1s0f0np0 of pool 'data' has the address 192.0.2.5/24")
        assert rig.card.trace == []
        assert rig.memory.ovs.uplinks == {}
    insisting = replace(POOL, uplink_in_use="plug")
    assert "plugged enp1s0f0np0 into br-data" in rig.provision(insisting)["changes"]
    assert rig.memory.ovs.uplinks == {"enp1s0f0np0": "br-data"}
    again = rig.provision()
    assert (again["error"], again["changes"]) == (None, [])
    assert any("give the address to br-data" in text for text in texts(again))


def test_a_missing_uplink_is_an_error(rig: ProvisionRig) -> None:
    error = rig.provision(replace(POOL, uplink="bond0"))["error"]
    assert error["problem"] == (
        "/etc/vfmigrate/vfmigrate.conf: [pool data] uplink: there is no network device bond0"
    )


def test_uplink_none_and_network_none_are_left_out(rig: ProvisionRig) -> None:
    outcome = rig.provision(replace(POOL, uplink="none", network="none"))
    assert outcome["changes"] == CHANGES[:6]
    assert (rig.memory.ovs.uplinks, rig.libvirt.persistent) == ({}, {})


def test_a_stopped_libvirt_is_a_warning(rig: ProvisionRig) -> None:
    rig.libvirt.down = True
    outcome = rig.provision()
    assert outcome["error"] is None
    assert any("vfmigrate-data will be defined when libvirt runs" in text for text in texts(outcome))


def test_a_network_is_not_restarted_while_a_guest_has_a_vf(rig: ProvisionRig) -> None:
    rig.provision()
    rig.claim(0)
    stale = network_xml.render("vfmigrate-data", "data", [PF], "0c8a2a0e-0000-4000-8000-000000000001")
    rig.libvirt.live["vfmigrate-data"] = stale
    assert rig.provision()["changes"] == []
    assert rig.libvirt.live["vfmigrate-data"] == stale


@pytest.mark.parametrize("by", ["a process", "the host"])
def test_a_network_is_not_restarted_while_a_process_has_a_vf(rig: ProvisionRig, by: str) -> None:
    """Libvirt may have assigned that VF; what the host itself uses it has not."""
    rig.provision()
    vf = rig.memory.sysfs.vfs(PF)[0]
    rig.memory.sysfs.bind(vf, "mlx5_vfio_pci" if by == "a process" else "mlx5_core")
    rig.memory.sysfs.open_groups.add(str(vf))
    rig.memory.sysfs.in_containers.add(str(vf))
    stale = network_xml.render("vfmigrate-data", "data", [PF], "0c8a2a0e-0000-4000-8000-000000000001")
    rig.libvirt.live["vfmigrate-data"] = stale
    changes = rig.provision()["changes"]
    assert changes == ([] if by == "a process" else ["restarted libvirt network vfmigrate-data"])


def test_open_vswitch_is_restarted_where_the_pool_says_so(rig: ProvisionRig) -> None:
    outcome = rig.provision(replace(POOL, restart_openvswitch=True))
    assert "restarted Open vSwitch for hardware offload" in outcome["changes"]
    assert rig.restarted == ["ovs-vswitchd.service"]
    assert texts(rig.provision()) == []


def test_open_vswitch_is_not_restarted_under_a_guest(rig: ProvisionRig) -> None:
    rig.provision()
    rig.claim(0)
    outcome = rig.provision(replace(POOL, restart_openvswitch=True))
    assert (outcome["changes"], rig.restarted) == ([], [])
    told = "Open vSwitch must be restarted for hardware offload, and is not while guests have VFs"
    assert texts(outcome) == [told]


def test_any_restart_of_open_vswitch_enables_offload(rig: ProvisionRig) -> None:
    rig.provision()
    rig.run_switch(102)
    assert texts(rig.provision()) == []


def test_an_error_stops_the_pool_before_anything_changes(make_rig: MakeProvisionRig) -> None:
    rig = make_rig(firmware="28.33.0800")
    outcome = rig.provision()
    assert outcome["error"]["problem"].startswith(
        "pool 'data' is not provisioned: PF 0000:01:00.0 runs firmware"
    )
    assert (outcome["changes"], rig.card.trace) == ([], [])


def test_the_failure_of_one_pool_does_not_stop_the_next(rig: ProvisionRig) -> None:
    absent = Pool("absent", (PciAddress(0, 0x77, 0, 0),), "br-absent")
    outcomes = rig.provisioner(absent, POOL).provision()["pools"]
    assert "there is no PCI device 0000:77:00.0" in outcomes[0]["error"]["problem"]
    assert outcomes[1]["changes"] == CHANGES


def test_an_unknown_pool_is_refused_with_the_known_ones(rig: ProvisionRig) -> None:
    with pytest.raises(UsageError, match="there is no pool 'dta'; the pools are: data"):
        rig.provisioner().provision(["dta"])


def test_a_pf_of_no_pool_is_left_alone(rig: ProvisionRig) -> None:
    assert rig.provisioner().provision_pf(PciAddress(0, 2, 0, 0))["pools"] == []
    assert rig.card.trace == []
    assert rig.provisioner().provision_pf(PF)["pools"][0]["changes"] == CHANGES


def test_a_change_without_effect_is_an_error(rig: ProvisionRig) -> None:
    rig.memory.links.set_up = lambda _index, _up=True: None  # type: ignore[method-assign,assignment]
    error = rig.provision()["error"]
    assert error["problem"] == (
        "pool 'data' was provisioned, but something changed the host again: still to do: bring enp1s0f0np0 up"
    )


def test_udev_is_told_of_the_devices_of_pools_and_of_no_others(rig: ProvisionRig, tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    rig.provisioner(replace(POOL, representor_names="stable")).publish_devices()
    assert (owned / str(PF)).read_text() == "VFMIGRATE_PF=1\nVFMIGRATE_REPRESENTOR_PREFIX=r0100\n"
    sysfs = rig.memory.host.sysfs
    vfs = {str(vf) for vf in sysfs.vf_addresses(PF, sysfs.totalvfs(PF))}
    assert {file.name for file in owned.iterdir()} == {str(PF), *vfs}
    assert {(owned / name).read_text() for name in vfs} == {"VFMIGRATE_VF=1\n"}
    rig.provisioner(POOL).publish_devices()
    assert (owned / str(PF)).read_text() == "VFMIGRATE_PF=1\n"
    rig.provisioner(replace(POOL, pfs=())).publish_devices()
    assert list(owned.iterdir()) == []
