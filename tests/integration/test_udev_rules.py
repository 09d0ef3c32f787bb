# SPDX-License-Identifier: GPL-2.0-or-later
"""What the udev rules do with a card, its VFs and its representors, evaluated by udev itself.

The tests ask udev what it would do; on the test bed, the kernel makes the events and udev handles them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.pair import Node, Pair

DATABASE = "/run/udev/data"
LOCAL_RULES = "/etc/udev/rules.d/60-local.rules"
OWNED = "/run/vfmigrate/udev"


@dataclass(frozen=True)
class Event:
    """The result of an event: the device's properties, the name of a network device, attributes to write."""

    properties: dict[str, str]
    name: str
    written: dict[str, str]

    def ours(self) -> dict[str, str]:
        """The properties that the rules set."""
        names = ("SYSTEMD_WANTS", "NM_UNMANAGED")
        return {
            name: value
            for name, value in self.properties.items()
            if name in names or name in ("VFMIGRATE_PF", "VFMIGRATE_VF")
        }


class Udev:
    """udev's rules on one host, and the database in which they find a device's parent."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def pci(self, address: str, action: str = "add") -> Event:
        """An event of a PCI device; its result is stored in the database as udev does."""
        event = self._event(f"/sys/bus/pci/devices/{address}", action)
        lines = "".join(f"E:{name}={value}\n" for name, value in event.properties.items())
        self._node.host.write(f"{DATABASE}/+pci:{address}", f"I:1\n{lines}V:1\n")
        return event

    def net(self, name: str, action: str = "add") -> Event:
        """An event of a network device."""
        return self._event(f"/sys/class/net/{name}", action)

    def _event(self, device: str, action: str) -> Event:
        # libudev otherwise checks that /sys is the kernel's own.
        environment = {"SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}
        done = self._node.host.run("udevadm", "test", f"--action={action}", device, env=environment)
        told = done.stdout + done.stderr
        found = re.search(r"^Network interface name:\n\s+(\S+)", told, re.MULTILINE)
        return Event(
            properties=dict(re.findall(r"^  ([A-Z_]+)=(.*)$", told, re.MULTILINE)),
            name=found[1] if found else "",
            written=dict(re.findall(r'skipping writing ATTR\{\S*/(\w+)\}="(.*)"', told)),
        )


@pytest.fixture
def node(pair: Pair) -> Iterator[Node]:
    yield pair.a
    pair.a.host.path(LOCAL_RULES).unlink(missing_ok=True)
    for place in (DATABASE, OWNED):
        shutil.rmtree(pair.a.host.path(place), ignore_errors=True)


@pytest.fixture
def udev(node: Node) -> Udev:
    """The rules on a host whose pool has the card, without stable names for representors."""
    own(node)
    return Udev(node)


def own(node: Node, prefix: str = "") -> None:
    """Have the card's devices be those of a pool, as the daemon does it."""
    names = f"VFMIGRATE_REPRESENTOR_PREFIX={prefix}\n" if prefix else ""
    node.host.write(f"{OWNED}/{node.pf}", f"VFMIGRATE_PF=1\n{names}")
    node.host.write(f"{OWNED}/{node.vf(1)}", "VFMIGRATE_VF=1\n")


def test_a_card_of_no_pool_is_left_alone(node: Node) -> None:
    udev = Udev(node)
    for event in (udev.pci(node.pf), udev.pci(node.vf(1)), udev.net(node.representor(1))):
        assert (event.ours(), event.written) == ({}, {})


def test_the_daemon_says_which_devices_are_those_of_its_pools(node: Node) -> None:
    node.product.start()
    udev = Udev(node)
    assert udev.pci(node.pf).written == {"sriov_drivers_autoprobe": "0"}
    assert udev.pci(node.vf(3)).ours() == {"VFMIGRATE_VF": "1"}


def test_a_pf_is_kept_from_probing_and_provisioned(node: Node, udev: Udev) -> None:
    event = udev.pci(node.pf)
    assert event.ours() == {
        "VFMIGRATE_PF": "1",
        "SYSTEMD_WANTS": f"vfmigrate-provision@{node.pf}.service",
    }
    assert ":systemd:" in event.properties["TAGS"]
    assert event.written == {"sriov_drivers_autoprobe": "0"}


def test_a_pf_is_provisioned_when_its_driver_binds_it(node: Node, udev: Udev) -> None:
    node.card.unbind("mlx5_core", node.pf)
    event = udev.pci(node.pf)
    assert event.ours() == {"VFMIGRATE_PF": "1"}
    assert event.written == {"sriov_drivers_autoprobe": "0"}
    node.card.drivers_probe(node.pf)
    assert "SYSTEMD_WANTS" in udev.pci(node.pf, action="bind").ours()


def test_rules_of_an_administrator_override_the_defaults(node: Node, udev: Udev) -> None:
    node.host.write(LOCAL_RULES, f'SUBSYSTEM=="pci", KERNEL=="{node.pf}", ENV{{VFMIGRATE_PF}}="0"\n')
    event = udev.pci(node.pf)
    assert (event.ours(), event.written) == ({"VFMIGRATE_PF": "0"}, {})


def test_representors_are_unmanaged_and_keep_their_names(node: Node, udev: Udev) -> None:
    udev.pci(node.pf)
    event = udev.net(node.representor(1))
    assert event.ours() == {"VFMIGRATE_PF": "1", "NM_UNMANAGED": "1"}
    assert event.name == node.representor(1)


def test_representors_get_stable_names_where_the_pool_says_so(node: Node, udev: Udev) -> None:
    own(node, "r0100")
    udev.pci(node.pf)
    assert udev.net(node.representor(1)).name == "r0100pf0vf1"
    assert udev.net(node.representor(1), action="change").name == node.representor(1)


def test_networkmanager_keeps_managing_the_uplink(node: Node, udev: Udev) -> None:
    own(node, "r0100")
    udev.pci(node.pf)
    event = udev.net("p0")
    assert (event.ours(), event.name) == ({"VFMIGRATE_PF": "1"}, "p0")


def test_networkmanager_does_not_manage_a_vf(node: Node, udev: Udev) -> None:
    assert udev.pci(node.vf(1)).ours() == {"VFMIGRATE_VF": "1"}
    assert udev.pci(node.vf(1)).written == {}
