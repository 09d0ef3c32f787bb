# SPDX-License-Identifier: GPL-2.0-or-later
"""The eswitch mode before the network is configured: of which PFs it is changed, and of which not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.card import LEGACY, SWITCHDEV
from tests.fakes.rig import PF
from tests.unit.provision.provision_rig import POOL, ProvisionRig
from vfmigrate.config.configuration import Config
from vfmigrate.converge import uplinks
from vfmigrate.host.links import Link
from vfmigrate.provision.early import EarlyProvisioner


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ProvisionRig]:
    with ProvisionRig(tmp_path) as rig:
        yield rig


def run(rig: ProvisionRig) -> bool:
    early = EarlyProvisioner(Config({"data": POOL}), rig.memory.host, rig.udev, rig.log, patience=0.0)
    return early.run()


def said(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_mode_is_changed_without_open_vswitch(
    rig: ProvisionRig, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.memory.ovs.down = True
    assert run(rig)
    assert rig.card.eswitch_mode(str(PF)) == SWITCHDEV
    assert not rig.memory.sysfs.autoprobe(PF)
    assert rig.memory.sysfs.numvfs(PF) == 0
    assert said(capsys) == f"<6>early-provision: pool 'data': set the eswitch of PF {PF} to switchdev"


def test_a_card_that_is_in_switchdev_mode_is_left_alone(rig: ProvisionRig) -> None:
    assert run(rig)
    rig.memory.sysfs.set_numvfs(PF, 4)
    rig.card.trace.clear()
    assert run(rig)
    assert rig.card.trace == []


def test_a_card_with_vfs_is_left_to_provisioning(
    rig: ProvisionRig, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.memory.sysfs.set_numvfs(PF, 4)
    assert not run(rig)
    assert rig.card.eswitch_mode(str(PF)) == LEGACY
    assert (
        f"PF {PF} has 4 VFs already, so its eswitch is not changed before the network is configured; "
        "vfmigrate-provision.service changes it later"
    ) in said(capsys)


def test_a_card_whose_port_is_in_use_is_left_to_provisioning(
    rig: ProvisionRig, capsys: pytest.CaptureFixture[str]
) -> None:
    link = uplinks.physical_port(rig.memory.host, PF)
    # the network of a root file system on iSCSI or NFS is configured by the initramfs
    rig.memory.links.ip_addresses[link.index] = ["192.0.2.5/24"]
    assert not run(rig)
    assert f"{link.name}, the port of PF {PF}, has the address 192.0.2.5/24 already" in said(capsys)

    rig.memory.links.ip_addresses.clear()
    rig.memory.links.links[77] = Link(77, "bond0", True, 1500, "02:00:00:00:00:01", kind="bond")
    rig.memory.links.links[link.index] = replace(link, master=77)
    assert not run(rig)
    assert f"{link.name}, the port of PF {PF}, is a port of bond0 already" in said(capsys)
    assert rig.card.eswitch_mode(str(PF)) == LEGACY


def test_a_card_that_does_not_appear_is_reported(
    rig: ProvisionRig, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.card.unbind("mlx5_core", str(PF))
    assert not run(rig)
    assert f"PF {PF} did not appear within 0 s; see lspci -Dk and journalctl -k" in said(capsys)


def test_an_infiniband_port_is_left_to_the_finding_of_provisioning(tmp_path: Path) -> None:
    with ProvisionRig(tmp_path, pci_class="0x020700") as rig:
        rig.card.trace.clear()
        assert run(rig)
        assert rig.card.trace == []
