# SPDX-License-Identifier: GPL-2.0-or-later
"""Where in a guest a device is, and whether it can be unplugged there."""

from __future__ import annotations

from typing import Optional

import pytest

from vfmigrate.domain import migrating_guest, pci_topology
from vfmigrate.domain.markup import Markup

CONTROLLERS = """<controller type='pci' index='0' model='pcie-root'/>
<controller type='pci' index='1' model='pcie-root-port'/>
<controller type='pci' index='2' model='pcie-root-port'><target hotplug='off'/></controller>
<controller type='pci' index='3' model='pcie-to-pci-bridge'/>"""


def guest(
    bus: Optional[str], model: str = "", machine: str = "pc-q35-10.0", controllers: str = CONTROLLERS
) -> str:
    address = f"<address type='pci' bus='{bus}'/>" if bus is not None else ""
    return (
        "<domain><name>g</name><uuid>22222222-2222-4222-8222-222222222222</uuid>"
        f"<os><type machine='{machine}'>hvm</type></os><devices>{controllers}"
        f"<interface type='network'><source network='vfmigrate-data'/>{model}{address}</interface></devices></domain>"
    )


@pytest.mark.parametrize(
    ("bus", "obstacle"),
    [
        (None, None),
        ("0x01", None),
        ("0x00", "pcie-root"),
        ("0x02", "pcie-root-port without hot-plug"),
        ("0x03", "pcie-to-pci-bridge"),
        ("0x09", "bus without a controller"),
    ],
)
def test_a_device_is_unplugged_from_a_port_with_hot_plug_only(
    bus: Optional[str], obstacle: Optional[str]
) -> None:
    root = Markup(guest(bus)).root
    device = root.first("devices/interface")
    assert device is not None
    assert pci_topology.obstacle(root, device) == obstacle


def test_the_remedy_names_the_model_that_put_it_there() -> None:
    device = Markup(guest("0x03", "<model type='rtl8139'/>")).root.first("devices/interface")
    assert device is not None
    assert pci_topology.remedy(device) == (
        "move it to a pcie-root-port: remove its <address type='pci'> and <model type='rtl8139'/> in virsh edit, "
        "and add <model type='virtio'/>; then restart the guest"
    )


def test_a_guest_with_conventional_pci_only_has_no_obstacle() -> None:
    xml = guest(
        "0x00", machine="pc-i440fx-10.0", controllers="<controller type='pci' index='0' model='pci-root'/>"
    )
    assert migrating_guest.read(xml, xml).obstacles == {}
    assert [place for place, _ in migrating_guest.read(guest("0x03"), guest("0x03")).obstacles.values()] == [
        "pcie-to-pci-bridge"
    ]
