# SPDX-License-Identifier: GPL-2.0-or-later
"""Provisioning a host in memory: everything once, nothing twice, and never under a running guest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, cast

import pytest

from tests.fakes.card import LEGACY, SWITCHDEV, Card
from tests.fakes.doors import MemoryHost
from tests.fakes.hardware import Hardware
from tests.fakes.networks import MemoryNetworks
from tests.fakes.rig import PF, Rig
from vfmigrate.cards.mlx5 import Mlx5
from vfmigrate.cards.mlx5_mstconfig import FirmwareSettings
from vfmigrate.cards.registry import Vendors
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.domain import network_xml
from vfmigrate.errors import Refused, UsageError
from vfmigrate.host.links import Link
from vfmigrate.host.udev import Udev
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.offload import HardwareOffload
from vfmigrate.provision.networks import Networks
from vfmigrate.provision.provisioner import Provisioner

POOL = Pool("data", (PF,), "br-data", vfs=4, origin="/etc/vfmigrate/vfmigrate.conf")


class ProvisionRig(Rig):
    """A host whose card is as it comes: no VFs, legacy mode; and a switch that has never been configured."""

    def __init__(self, place: Path, **hardware: Any) -> None:
        card = Card((str(PF),), hardware=Hardware(**hardware))
        super().__init__(place, MemoryHost(card=card))
        card.numvfs(str(PF), "0")
        card.set_eswitch_mode(str(PF), LEGACY)
        card.autoprobe(str(PF), "1")
        card.trace.clear()
        self.memory.ovs.bridges.clear()
        self.card = card
        self.libvirt = MemoryNetworks()
        self.udev = Udev(place / "udev", place / "representors")
        self.restarted: list[str] = []
        self.pid_file = place / "vswitchd.pid"
        self.proc = place / "proc"
        self.run_switch(100)
        self.offload = HardwareOffload(
            self.restart, note=place / "note", pid_file=self.pid_file, proc=self.proc
        )

    def run_switch(self, pid: int) -> None:
        (self.proc / str(pid)).mkdir(parents=True)
        words = [str(pid), "(ovs vswitchd)", *map(str, range(3, 30))]
        (self.proc / str(pid) / "stat").write_text(" ".join(words))
        self.pid_file.write_text(f"{pid}\n")

    def restart(self, unit: str) -> None:
        self.restarted.append(unit)
        self.run_switch(101)

    def provisioner(self, *pools: Pool) -> Provisioner:
        config = Config({pool.name: pool for pool in pools or (POOL,)})
        return Provisioner(
            replace(self.services, config=config),
            Networks(config, self.memory.host, self.store, cast(Any, self.libvirt)),
            udev=self.udev,
            offload=self.offload,
        )

    def provision(self, pool: Pool = POOL, **options: Any) -> dict[str, Any]:
        (outcome,) = self.provisioner(pool).provision(**options)["pools"]
        return cast("dict[str, Any]", outcome)

    def claim(self, index: int, **changes: Any) -> Claim:
        vf = self.memory.sysfs.vfs(PF)[index]
        claim = Claim(vf, "data", "22222222-2222-4222-8222-222222222222", "guest1", claim_store.PLUGGED, 0.0)
        return self.store.put(replace(claim, **changes))


def provisioner_of(rig: Rig, pool: Pool) -> Provisioner:
    """Provisions one pool of any rig."""
    config = Config({pool.name: pool})
    return Provisioner(
        replace(rig.services, config=config),
        Networks(config, rig.memory.host, rig.store, cast(Any, MemoryNetworks())),
        udev=Udev(rig.directory / "udev", rig.directory / "representors"),
        offload=HardwareOffload(lambda _unit: None, note=rig.directory / "note"),
    )


MakeProvisionRig = Callable[..., ProvisionRig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeProvisionRig]:
    with ExitStack() as rigs:
        yield lambda **hardware: rigs.enter_context(ProvisionRig(tmp_path, **hardware))


@pytest.fixture
def rig(make_rig: MakeProvisionRig) -> ProvisionRig:
    return make_rig()


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


def texts(outcome: dict[str, Any]) -> list[str]:
    return [finding["text"] for finding in outcome["findings"]]


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


def test_another_number_of_vfs_is_set_by_way_of_0(rig: ProvisionRig) -> None:
    rig.provision()
    outcome = rig.provision(replace(POOL, vfs=2))
    assert outcome["changes"] == [
        "removed the 4 VFs of PF 0000:01:00.0",
        "created 2 VFs on PF 0000:01:00.0",
        "set migratable of the 2 VFs of PF 0000:01:00.0",
        "defined libvirt network vfmigrate-data with 2 VFs",
        "restarted libvirt network vfmigrate-data",
    ]


def test_vfs_of_a_card_in_legacy_mode_are_kept(rig: ProvisionRig) -> None:
    rig.card.numvfs(str(PF), "3")  # autoprobe is on: the host's driver takes them
    outcome = rig.provision(replace(POOL, vfs=None))
    assert outcome["error"] is None
    assert outcome["changes"][1:6] == [
        "unbound 0000:01:00.2 from mlx5_core",
        "unbound 0000:01:00.3 from mlx5_core",
        "unbound 0000:01:00.4 from mlx5_core",
        "set the eswitch of PF 0000:01:00.0 to switchdev (its link goes down meanwhile)",
        "set migratable of the 3 VFs of PF 0000:01:00.0",
    ]


def test_vfs_get_the_msix_count_of_the_pool(rig: ProvisionRig) -> None:
    pool = replace(POOL, msix=17)
    assert "gave the 4 VFs of PF 0000:01:00.0 17 MSI-X vectors each" in rig.provision(pool)["changes"]
    assert {rig.memory.sysfs.msix_count(vf) for vf in rig.memory.sysfs.vfs(PF)} == {17}
    claim = rig.claim(0)
    outcome = rig.provision(replace(POOL, msix=9))
    assert len([text for text in outcome["changes"] if text.endswith("9 MSI-X vectors")]) == 3
    assert (
        f"VF {claim.vf} keeps its 17 MSI-X vectors (configured: 9) while it is held by guest 'guest1'"
        in texts(outcome)
    )


def test_msix_on_a_card_without_msix_counts_is_an_error(make_rig: MakeProvisionRig) -> None:
    outcome = make_rig(vf_msix_pool=0).provision(replace(POOL, msix=17))
    assert "MSI-X of 0000:01:00.2" in outcome["error"]["problem"]


def test_vfs_of_a_running_guest_are_not_taken_away(rig: ProvisionRig) -> None:
    rig.provision()
    claim = rig.claim(1)
    done = len(rig.card.trace)
    outcome = rig.provision(replace(POOL, vfs=8))
    assert outcome["error"] == {
        "kind": "refused",
        "problem": "pool 'data' asks to change sriov_numvfs of PF 0000:01:00.0 from 4 to 8, which takes all its VFs "
        f"away: VF {claim.vf} is held by guest 'guest1'",
        "remedy": "migrate these guests away or shut them down, then run vfmigrate provision again",
    }
    assert len(rig.card.trace) == done


def test_vfs_that_a_process_or_the_host_uses_are_not_taken_away(rig: ProvisionRig) -> None:
    rig.provision()
    held, hosts_own = rig.memory.sysfs.vfs(PF)[:2]
    rig.memory.sysfs.bind(held, "mlx5_vfio_pci")
    rig.memory.sysfs.open_groups.add(str(held))
    rig.memory.sysfs.bind(hosts_own, "mlx5_core")
    (name,) = rig.memory.sysfs.netdevs(hosts_own)
    link = rig.memory.links.find(name)
    assert link is not None
    rig.memory.links.set_up(link.index)
    problem = rig.provision(replace(POOL, vfs=8))["error"]["problem"]
    assert f"VF {held} is held by process 4711, VF {hosts_own} is in use by this host as {name}" in problem
    assert rig.provision()["changes"] == []  # and neither is touched otherwise


def test_a_vf_in_a_container_is_not_taken_away(rig: ProvisionRig) -> None:
    rig.provision()
    vf = rig.memory.sysfs.vfs(PF)[1]
    rig.memory.sysfs.bind(vf, "mlx5_core")
    rig.memory.sysfs.in_containers.add(str(vf))
    done = len(rig.card.trace)
    problem = rig.provision(replace(POOL, vfs=8))["error"]["problem"]
    assert f"VF {vf} is in use through driver mlx5_core, and its network device is not in this" in problem
    assert rig.provision(replace(POOL, msix=20))["changes"] == [
        text.format(each)
        for each in rig.memory.sysfs.vfs(PF)
        if each != vf
        for text in ("gave {} 20 MSI-X vectors",)
    ]
    assert ("unbind", "mlx5_core", str(vf)) not in rig.card.trace[done:]
    assert rig.memory.sysfs.driver(vf) == "mlx5_core"


def test_a_vf_that_the_host_has_by_the_pools_own_wish_is_taken_away_unless_it_is_configured(
    rig: ProvisionRig,
) -> None:
    pool = replace(POOL, free_vfs="host")
    rig.provision(pool)
    vf = rig.memory.sysfs.vfs(PF)[0]
    (name,) = rig.memory.sysfs.netdevs(vf)
    link = rig.memory.links.find(name)
    assert link is not None
    rig.memory.links.set_up(link.index)
    rig.memory.links.ip_addresses = {link.index: ["192.0.2.1/24"]}
    problem = rig.provision(replace(pool, vfs=8))["error"]["problem"]
    assert f"VF {vf} is in use by this host as {name} (192.0.2.1/24)" in problem
    rig.memory.links.ip_addresses.clear()
    assert "created 8 VFs on PF 0000:01:00.0" in rig.provision(replace(pool, vfs=8))["changes"]


@pytest.mark.parametrize("after", [0.0, 11.0])
def test_an_expired_claim_keeps_no_vfs_from_being_made_again(rig: ProvisionRig, after: float) -> None:
    rig.provision()
    rig.claim(0, expires=rig.now + 10)
    rig.now += after
    outcome = rig.provision(replace(POOL, vfs=8))
    assert (outcome["error"] is None) == (after > 10)


def test_the_eswitch_is_not_changed_under_a_guest(rig: ProvisionRig) -> None:
    rig.provision()
    rig.claim(0)
    rig.card.set_eswitch_mode(str(PF), LEGACY)
    error = rig.provision()["error"]
    assert error["kind"] == "refused"
    assert "change the eswitch of PF 0000:01:00.0 from legacy to switchdev" in error["problem"]
    assert "'guest1'" in error["problem"]


def test_no_vf_can_be_claimed_while_its_pf_is_provisioned(rig: ProvisionRig) -> None:
    rig.provision()
    refused = []

    def claim_now(_pf: PciAddress, _count: int) -> None:
        with pytest.raises(Refused, match="its PF is being provisioned") as error:
            rig.claim(0)
        refused.append(error)
        raise error.value

    rig.memory.sysfs.set_numvfs = claim_now  # type: ignore[method-assign,assignment]  # the moment in between
    assert rig.provision(replace(POOL, vfs=8))["error"]["kind"] == "refused"
    assert len(refused) == 1
    rig.claim(0)  # and afterwards it can be


def test_a_busy_eswitch_is_an_error(rig: ProvisionRig) -> None:
    rig.card.occupy_eswitch(str(PF), 1)
    assert "E-Switch is busy" in rig.provision()["error"]["problem"]


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


def test_a_card_whose_eswitch_another_processor_manages(tmp_path: Path) -> None:
    card = Card((str(PF),))
    with Rig(tmp_path, MemoryHost(card=card)) as rig:
        card.hardware = replace(card.hardware, eswitch_manager=False)
        provisioner = provisioner_of(rig, POOL)
        (outcome,) = provisioner.provision(["data"])["pools"]
        (finding,) = outcome["findings"]
        assert finding["text"] == (
            "PF 0000:01:00.0 cannot be configured: devlink: cannot read the eswitch mode of PF 0000:01:00.0: "
            "Operation not supported"
        )
        assert "BlueField in DPU mode" in finding["remedy"]
        assert outcome["error"]["problem"].endswith(finding["text"])


def test_an_infiniband_port_is_an_error(make_rig: MakeProvisionRig) -> None:
    rig = make_rig(pci_class="0x020700")
    outcome = rig.provision()
    (finding,) = outcome["findings"]
    assert finding["text"] == (
        "PF 0000:01:00.0 is an InfiniBand port, so its VFs cannot be connected to bridge br-data"
    )
    assert finding["remedy"] == (
        "run: mstconfig -d 0000:01:00.0 set LINK_TYPE_P1=2; then mstfwreset -d 0000:01:00.0 reset"
    )
    assert rig.card.trace == []


def test_a_kernel_that_is_locked_down_is_reported_once(tmp_path: Path) -> None:
    second = PciAddress(0, 1, 0, 1)
    lockdown, failing = tmp_path / "lockdown", tmp_path / "mstconfig"
    lockdown.write_text("none [integrity] confidentiality\n")
    failing.write_text("#!/bin/sh\necho '-E- Failed to open the device' >&2\nexit 1\n")
    failing.chmod(0o755)
    vendors = Vendors([Mlx5(FirmwareSettings(tools=(str(failing),), lockdown=lockdown))])
    with Rig(tmp_path, MemoryHost(card=Card((str(PF), str(second))), vendors=vendors)) as rig:
        pool = replace(POOL, pfs=(PF, second), uplink="none")
        provisioner = provisioner_of(rig, pool)
        found = [finding.text for finding in provisioner.check(pool, ask_tool=True)]
        assert [text for text in found if "locked down" in text] == [
            "the kernel is locked down (integrity; Secure Boot), so mstconfig cannot read VF_MIGRATION_MODE of any card"
        ]


def test_a_mode_change_that_would_break_a_bond_with_guests_is_refused(tmp_path: Path) -> None:
    second = PciAddress(0, 1, 0, 1)
    card = Card((str(PF), str(second)))
    with Rig(tmp_path, MemoryHost(card=card)) as rig:
        rig.memory.links.links[77] = Link(77, "bond0", True, 1500, "02:00:00:00:00:01")
        for pf in (PF, second):
            (port,) = [port for port in rig.memory.devlink.ports(pf) if port.flavour == "physical"]
            assert port.ifindex is not None
            link = rig.memory.links.link(port.ifindex)
            rig.memory.links.links[link.index] = replace(link, master=77)
        pool = replace(POOL, pfs=(PF, second), uplink="bond0")
        provisioner = provisioner_of(rig, pool)
        vf = rig.memory.sysfs.vfs(PF)[0]
        uuid = "22222222-2222-4222-8222-222222222222"
        claim = rig.store.put(Claim(vf, "data", uuid, "guest1", claim_store.PLUGGED, 0.0))
        card.trace.clear()
        (refused,) = provisioner.provision(["data"])["pools"]
        assert refused["error"]["problem"] == (
            "changing the eswitch of PF 0000:01:00.1 to switchdev would break bond0, to which guests are connected: "
            f"VF {vf} of PF 0000:01:00.0 is held by guest 'guest1'"
        )
        assert card.trace == []
        rig.store.drop(claim)
        (outcome,) = provisioner.provision(["data"])["pools"]
        assert outcome["error"] is None
        assert card.eswitch_mode(str(second)) == SWITCHDEV


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
        "the host does not keep pool 'data' as it should be: still to do: bring enp1s0f0np0 up"
    )


def test_representors_are_named_where_the_pool_says_so(rig: ProvisionRig, tmp_path: Path) -> None:
    rig.provisioner(replace(POOL, representor_names="stable")).name_representors()
    file = tmp_path / "representors" / str(PF)
    assert file.read_text() == "VFMIGRATE_REPRESENTOR_PREFIX=r0100\n"
    rig.provisioner(POOL).name_representors()
    assert not file.exists()
