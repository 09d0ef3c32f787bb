# SPDX-License-Identifier: GPL-2.0-or-later
"""The status of a host in memory, and what the terminal shows of it and of provisioning."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.card import LEGACY, SWITCHDEV
from tests.fakes.rig import PF
from tests.unit.provision.provision_rig import POOL, ProvisionRig
from vfmigrate.claims.claim_store import PREPARED
from vfmigrate.cli import tables
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.converger import Converger
from vfmigrate.daemon.observation import Observer, Problem
from vfmigrate.daemon.status import Status
from vfmigrate.errors import Unreachable
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import SwitchPort
from vfmigrate.reservations.migration_slots import MigrationSlots

EXPECTED = Path(__file__).with_name("expected")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProvisionRig]:
    with ProvisionRig(tmp_path) as rig:
        rig.provision()
        rig.run_switch(200)
        yield rig


def tell(rig: ProvisionRig, pool: Pool = POOL, host_wide: Sequence[Problem] = ()) -> dict[str, Any]:
    config = Config({pool.name: pool})
    check = rig.provisioner(pool).check
    moves = MigrationSlots(config, rig.memory.host, rig.store)
    services = replace(rig.services, config=config)
    observer = Observer(services, rig.offload, check, rig.query.known, host_wide)
    told = Status(services, observer, moves).collect()
    return dict(json.loads(json.dumps(told)))


def problems(told: dict[str, Any]) -> list[str]:
    (pool,) = told["pools"]
    (pf,) = pool["pfs"]
    return [*pool["problems"], *pf["problems"], *(text for vf in pf["vfs"] for text in vf["problems"])]


def plug(rig: ProvisionRig, index: int, **changes: Any) -> None:
    claim = rig.claim(index, mac="52:54:00:00:00:02", vlan=42, **changes)
    Converger(rig.memory.host, Config({"data": POOL}), rig.store).converge(claim.vf)


def test_a_good_host_has_no_problems(rig: ProvisionRig) -> None:
    plug(rig, 1)
    told = tell(rig)
    assert problems(told) == []
    assert told["problems"] == []
    (pool,) = told["pools"]
    assert (pool["name"], pool["bridge"], pool["network"]) == ("data", "br-data", "vfmigrate-data")
    (pf,) = pool["pfs"]
    facts = (pf["psid"], pf["firmware"], pf["mode"], pf["offload"])
    assert facts == ("MT_0000000892", "28.42.1000", "switchdev", "on")
    assert [vf["state"] for vf in pf["vfs"]] == ["free", "plugged", "free", "free"]
    vf = pf["vfs"][1]
    assert (vf["guest"], vf["tag"], vf["bridge"], vf["migratable"]) == ("guest1", 42, "br-data", True)
    assert vf["claim"] == told["claims"][0]["id"]


def test_what_is_wrong_with_the_host_as_a_whole_is_shown(rig: ProvisionRig) -> None:
    told = tell(rig, host_wide=(lambda: None, lambda: Unreachable("libvirt does not answer", "start it")))
    assert told["problems"] == ["libvirt does not answer; start it"]
    assert next(tables.status(told, 80)) == "! libvirt does not answer; start it"


@pytest.mark.parametrize(
    ("vendor", "said"), [(0x15B3, ["the firmware of PF 0000:01:00.0 cannot migrate its VFs"]), (0x7777, [])]
)
def test_a_card_whose_vfs_lack_the_flag_is_a_problem(tmp_path: Path, vendor: int, said: list[str]) -> None:
    with ProvisionRig(tmp_path, vendor=vendor, migration=False) as rig:
        rig.card.autoprobe(str(PF), "0")
        rig.card.numvfs(str(PF), "4")
        rig.card.set_eswitch_mode(str(PF), SWITCHDEV)
        (pf,) = tell(rig)["pools"][0]["pfs"]
        assert [vf["problems"] for vf in pf["vfs"]] == [said] * 4


def test_what_a_free_vf_answered(rig: ProvisionRig) -> None:
    (pool,) = (told := tell(rig))["pools"]
    (pf,) = pool["pfs"]
    assert (pf["support"]["driver"], pf["support"]["stop_copy"], pf["support_unknown"]) == (
        "mlx5_vfio_pci",
        True,
        None,
    )
    assert "migration" not in "".join(tables.status(told, 80))
    rig.card.hardware = replace(rig.card.hardware, firmware="28.43.1000", stored_firmware=None)
    (pool,) = (told := tell(rig))["pools"]
    (pf,) = pool["pfs"]
    assert (pf["support"], pf["support_unknown"]) == (None, "no VF has been asked yet")
    assert "migration unknown" in "".join(tables.status(told, 80))
    pf["support"] = {"stop_copy": False}
    assert "migration no\n" in "".join(f"{line}\n" for line in tables.status(told, 80))


def test_vfs_that_are_migrating_are_counted(rig: ProvisionRig) -> None:
    plug(rig, 1, incoming=True)
    told = tell(rig)
    (pf,) = told["pools"][0]["pfs"]
    assert (pf["migrating"], pf["max_migrating"]) == (1, 4)
    assert "1 of at most 4 VFs migrating to this host" in " ".join(" ".join(tables.status(told, 80)).split())


def test_each_difference_of_a_vf_is_a_problem(rig: ProvisionRig) -> None:
    plug(rig, 1)
    vfs = rig.memory.sysfs.vfs(PF)
    ports = rig.memory.devlink.vf_ports(PF)
    rig.memory.devlink.set_port_function(PF, ports[0].index, migratable=False)
    netdev = ports[1].netdev
    assert netdev is not None
    rig.memory.ovs.unplug(netdev, rig.store.all()[0].id)
    rig.memory.sysfs.bind(vfs[3], "mlx5_vfio_pci")
    rig.memory.sysfs.open_groups.add(str(vfs[3]))
    assert problems(tell(rig)) == [
        f"still to do: set migratable of {vfs[0]}",
        f"still to do: plug {netdev} into br-data with tag 42",
        "it is held by process 4711 without a claim",
    ]


def test_an_expired_claim_is_free_before_a_reconcile_drops_it(rig: ProvisionRig) -> None:
    plug(rig, 1, expires=rig.now + 10)
    (pf,) = tell(rig)["pools"][0]["pfs"]
    assert (pf["vfs"][1]["state"], pf["vfs"][1]["guest"]) == ("plugged", "guest1")
    rig.now += 11
    told = tell(rig)
    vf = told["pools"][0]["pfs"][0]["vfs"][1]
    assert (vf["state"], vf["guest"], vf["holder"], vf["claim"]) == ("free", None, None, None)
    assert any(problem.startswith("still to do: unplug ") for problem in vf["problems"])
    assert "4 of 4 VFs free" in next(tables.status(told, 80))


def test_a_vf_in_a_container_is_in_use(rig: ProvisionRig) -> None:
    vf = rig.memory.sysfs.vfs(PF)[0]
    rig.memory.sysfs.bind(vf, "mlx5_core")
    rig.memory.sysfs.in_containers.add(str(vf))
    told = tell(rig)
    first = told["pools"][0]["pfs"][0]["vfs"][0]
    assert first["state"] == "in use"
    assert "is not in this network namespace (a container may have it)" in first["holder"]
    assert problems(told) == []


def test_a_port_with_an_error_is_a_problem(rig: ProvisionRig) -> None:
    plug(rig, 0)
    ((name, port),) = rig.memory.ovs.ports.items()
    rig.memory.ovs.ports[name] = replace(port, error="could not open network device")
    assert "Open vSwitch: could not open network device" in problems(tell(rig))


def test_an_uplink_that_is_not_plugged_is_a_problem(rig: ProvisionRig) -> None:
    rig.memory.ovs.uplinks.clear()
    told = ["uplink enp1s0f0np0 is not plugged into br-data: run vfmigrate provision"]
    assert problems(tell(rig)) == told
    assert problems(tell(rig, replace(POOL, uplink="none"))) == []
    assert "uplink bond0 is not plugged" in problems(tell(rig, replace(POOL, uplink="bond0")))[0]


def test_each_difference_of_a_pf_is_a_problem(rig: ProvisionRig) -> None:
    rig.card.autoprobe(str(PF), "1")
    rig.card.set_eswitch_mode(str(PF), LEGACY)
    rig.memory.ovs.bridges.clear()
    rig.memory.ovs.other_config.clear()
    told = problems(tell(rig, replace(POOL, vfs=8)))
    assert told[:5] == [
        "hardware offload of Open vSwitch is off: run vfmigrate provision",
        "there is no bridge br-data: run vfmigrate provision",
        "the eswitch is in legacy mode: run vfmigrate provision",
        "it has 4 VFs, 8 are configured: run vfmigrate provision",
        "sriov_drivers_autoprobe is on: run vfmigrate provision",
    ]


def test_a_missing_card_and_a_stopped_switch_are_problems(rig: ProvisionRig) -> None:
    rig.memory.ovs.down = True
    absent = replace(POOL, pfs=(PciAddress(0, 0x77, 0, 0),))
    told = problems(tell(rig, absent))
    assert "ovsdb-server does not answer" in told[0]
    assert "there is no PCI device 0000:77:00.0" in told[1]


def test_offload_that_waits_for_a_restart_is_shown(rig: ProvisionRig) -> None:
    rig.memory.ovs.other_config.clear()
    rig.provision()
    told = tell(rig)
    assert told["pools"][0]["pfs"][0]["offload"] == "restart"
    assert "has no effect yet: systemctl restart ovs-vswitchd.service" in problems(told)[0]


def check(name: str, lines: Iterator[str]) -> None:
    shown = list(lines)
    assert all(len(line) <= 80 for line in shown)
    assert "".join(f"{line}\n" for line in shown) == (EXPECTED / name).read_text()


def test_the_terminal_shows_the_status(rig: ProvisionRig) -> None:
    plug(rig, 1, domain_name="a-guest-with-a-name-that-is-longer-than-the-terminal")
    rig.claim(2, state=PREPARED, expires=2000.0)
    ports = rig.memory.devlink.vf_ports(PF)
    rig.memory.devlink.set_port_function(PF, ports[3].index, migratable=False)
    rig.memory.ovs.ports["other"] = SwitchPort("other", "br-data", None, (), {}, None, 9, None)
    check("status.txt", tables.status(tell(rig, replace(POOL, vfs=8)), 80))


def test_the_terminal_shows_that_there_are_no_pools() -> None:
    assert list(tables.status({"pools": []}, 80)) == [
        "no pools are configured: see /etc/vfmigrate/vfmigrate.conf"
    ]


def test_the_terminal_shows_what_provisioning_did(rig: ProvisionRig) -> None:
    rig.memory.ovs.bridges.clear()
    rig.memory.ovs.other_config.clear()
    provisioner = rig.provisioner()
    dry = provisioner.provision(dry_run=True)
    done = provisioner.provision()
    again = provisioner.provision()
    lines = [line for answer in (dry, done, again) for line in (*tables.provision(answer, 80), "")]
    check("provision.txt", iter(lines[:-1]))
    assert list(tables.provision({"pools": []}, 80)) == ["no pools are configured; nothing to provision"]


def test_a_vf_that_is_being_released_is_not_free_and_says_what_is_left(rig: ProvisionRig) -> None:
    plug(rig, 1)
    (claim,) = rig.store.all()
    rig.store.release(claim, gone=True)
    told = tell(rig)
    vf = told["pools"][0]["pfs"][0]["vfs"][1]
    assert (vf["state"], vf["guest"], vf["claim"]) == ("releasing", claim.domain_name, claim.id)
    assert vf["holder"] == f"being released by guest '{claim.domain_name}'"
    assert vf["problems"][0].startswith(
        f"guest '{claim.domain_name}' no longer uses it; still to do: unplug "
    )
    assert told["claims"] == []


def test_a_claim_whose_file_cannot_be_written_is_a_problem(rig: ProvisionRig) -> None:
    plug(rig, 1)
    (claim,) = rig.store.all()
    file = rig.directory / "claims" / f"{claim.vf}.json"
    file.unlink()
    file.mkdir()
    rig.store.note(claim, incoming=False)
    (problem,) = problems(tell(rig))
    assert f"cannot write the claim on {claim.vf}: {file}: " in problem


def test_a_guest_whose_vfs_are_all_on_one_of_two_pfs_is_named(rig: ProvisionRig) -> None:
    two = replace(POOL, pfs=(PF, PciAddress(0, 9, 0, 0)))
    plug(rig, 0)
    (first,) = tell(rig, two)["pools"]
    plug(rig, 1)
    (both,) = tell(rig, two)["pools"]
    (on_one_pf_pool,) = tell(rig)["pools"]
    text = f"its 2 VFs on PF {PF} only, and loses all of them with its port"
    assert [any(text in each for each in pool["problems"]) for pool in (first, both, on_one_pf_pool)] == [
        False,
        True,
        False,
    ]
