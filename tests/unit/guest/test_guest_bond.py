# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's part on plain values: devices as sysfs shows them, the bond's profiles, what is to be done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

import vfmigrate_guest
from vfmigrate.version import VERSION
from vfmigrate_guest import bond, cli, nics
from vfmigrate_guest.bond import Bond
from vfmigrate_guest.fault import Fault
from vfmigrate_guest.nics import Nic

if TYPE_CHECKING:
    from vfmigrate_guest.networkmanager import NetworkManager

VF = Nic("ens5", "52:54:00:00:00:02", "mlx5_core")
VIRTIO = Nic("eth0", "52:54:00:00:00:03", "virtio_net")
BOND = Bond("bond0", VF, VIRTIO)


def test_the_guest_package_has_the_version_of_the_library() -> None:
    assert vfmigrate_guest.VERSION == VERSION


def device(root: Path, name: str, mac: str, driver: str, *, standby: bool = False) -> None:
    """A network device in a directory laid out as /sys/class/net."""
    place = root / name / "device"
    place.mkdir(parents=True)
    (root / name / "address").write_text(f"{mac}\n")
    (place / "driver").symlink_to(f"../../../bus/drivers/{driver}")
    if driver == "virtio_net":
        (place / "features").write_text("0" * 62 + ("1" if standby else "0") + "0\n")


def test_only_devices_with_hardware_are_listed(tmp_path: Path) -> None:
    device(tmp_path, "ens5", VF.mac, "mlx5_core")
    device(tmp_path, "eth0", VIRTIO.mac, "virtio_net")
    (tmp_path / "lo").mkdir()
    assert nics.nics(tmp_path) == [VF, VIRTIO]
    assert nics.choose(nics.nics(tmp_path)) == (VF, VIRTIO)


def test_a_port_is_shown_with_its_own_mac(tmp_path: Path) -> None:
    device(tmp_path, "ens5", "52:54:00:00:00:99", "mlx5_core")
    (tmp_path / "ens5/bonding_slave").mkdir()
    (tmp_path / "ens5/bonding_slave/perm_hwaddr").write_text(f"{VF.mac}\n")
    (tmp_path / "ens5/master").symlink_to("../bond0")
    assert nics.nics(tmp_path) == [replace(VF, master="bond0")]


def test_the_advice_depends_on_the_devices(tmp_path: Path) -> None:
    assert "vfmigrate-guest bond" in nics.advice([VF, VIRTIO])
    device(tmp_path, "eth0", VIRTIO.mac, "virtio_net", standby=True)
    (standby,) = nics.nics(tmp_path)
    assert "no bond is needed" in nics.advice([VF, standby])
    assert "no virtio device" in nics.advice([VF])
    assert "there is no VF now" in nics.advice([VIRTIO])


def test_a_device_is_found_by_name_or_mac(tmp_path: Path) -> None:
    assert nics.find([VF, VIRTIO], VF.mac.upper(), tmp_path) == VF
    assert nics.find([VF, VIRTIO], "eth0", tmp_path) == VIRTIO
    with pytest.raises(Fault, match=r"no network device 'ens9'; its network devices: ens5 .*, eth0"):
        nics.find([VF, VIRTIO], "ens9", tmp_path)
    with pytest.raises(Fault, match="several network devices"):
        nics.find([VF, replace(VF, name="ens6")], VF.mac, tmp_path)


@pytest.mark.parametrize("present", [[], [VF], [VF, VIRTIO, replace(VF, name="ens6")]])
def test_ambiguous_devices_are_refused(present: list[Nic]) -> None:
    with pytest.raises(Fault, match="--vf and --standby"):
        nics.choose(present)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (replace(BOND, standby=VF), "is given as VF and as standby"),
        (
            replace(BOND, standby=replace(VIRTIO, standby=True)),
            "by the kernel's net_failover; no bond is needed",
        ),
        (replace(BOND, standby=replace(VIRTIO, mac=VF.mac)), "the same MAC"),
        (replace(BOND, vf=replace(VF, master="br0")), "ens5 is already a port of br0; remove it from br0"),
    ],
)
def test_a_bond_that_cannot_work_is_refused(wanted: Bond, told: str) -> None:
    with pytest.raises(Fault, match=told):
        bond.check(wanted)


def test_the_bond_prefers_the_vf_and_finds_its_ports_by_mac() -> None:
    bond.check(BOND)
    made = bond.profiles(BOND, version=(1, 46, 0))
    assert made["bond"]["bond"]["options"] == {
        "mode": "active-backup",
        "miimon": "100",
        "primary": "ens5",
        "fail_over_mac": "active",
    }
    for part, nic in (("vf", VF), ("standby", VIRTIO)):
        assert made[part]["802-3-ethernet"]["mac-address"].hex(":") == nic.mac
        assert "interface-name" not in made[part]["connection"]
        assert made[part]["connection"]["master"] == made["bond"]["connection"]["uuid"]
    assert made["vf"]["bond-port"]["prio"] > made["standby"]["bond-port"]["prio"]
    assert "bond-port" not in bond.profiles(BOND, version=(1, 40, 0))["vf"]


def test_profiles_are_the_same_at_every_run_and_different_for_every_bond() -> None:
    assert bond.profiles(BOND) == bond.profiles(BOND)
    other = bond.profiles(replace(BOND, name="bond1"))
    mine = {profile["connection"]["uuid"] for profile in bond.profiles(BOND).values()}
    assert not mine & {profile["connection"]["uuid"] for profile in other.values()}


def test_only_profiles_that_differ_are_changed() -> None:
    wanted = bond.profiles(BOND, version=(1, 46, 0))
    assert bond.steps(wanted, dict.fromkeys(bond.PARTS)) == dict.fromkeys(bond.PARTS, "add")
    told = {part: {**profile, "proxy": {}} for part, profile in wanted.items()}
    del told["bond"]["connection"]["autoconnect"]  # NetworkManager leaves out what is so by default
    told["vf"]["802-3-ethernet"] = {"mac-address": list(bytes.fromhex("525400000002")), "mtu": 0}
    assert bond.steps(wanted, told) == {}
    told["vf"] = {**told["vf"], "802-3-ethernet": {"mac-address": [0] * 6}}
    assert bond.steps(wanted, told) == {"vf": "change"}


class FullDisk:
    """NetworkManager that can store one more profile."""

    def __init__(self) -> None:
        self.stored: list[str] = []

    def add(self, profile: bond.Profile) -> None:
        if self.stored:
            raise Fault("no space left on device", "make room")
        self.stored.append(str(profile["connection"]["uuid"]))

    def delete(self, identity: str) -> None:
        if identity in self.stored:
            self.stored.remove(identity)


def test_a_profile_that_was_not_added_is_not_reported_as_added(capsys: pytest.CaptureFixture[str]) -> None:
    made = bond.profiles(BOND, None, (1, 42, 0))
    full = FullDisk()
    with pytest.raises(Fault, match="no space left"):
        cli.apply_profiles(cast("NetworkManager", full), BOND, made, bond.steps(made, {}))
    assert capsys.readouterr().out == "added profile bond0\n"
    assert full.stored == []


@pytest.mark.parametrize(
    "words", [["bond", "--address", "192.0.2.7"], ["bond", "--address", "x/24"], ["join"], []]
)
def test_the_command_line_refuses_what_it_does_not_know(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.arguments().parse_args(words)
    assert stopped.value.code == 2
    assert "usage: vfmigrate-guest" in capsys.readouterr().err
