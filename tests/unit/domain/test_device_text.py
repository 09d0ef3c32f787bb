# SPDX-License-Identifier: GPL-2.0-or-later
"""A VF's device as it is kept while its guest is without it."""

from __future__ import annotations

import pytest

from vfmigrate.domain import device_text
from vfmigrate.model.pci import PciAddress

MAC = "52:54:00:00:00:02"
VF, SLOT = PciAddress(0, 0x41, 0, 3), PciAddress(0, 6, 0, 0)
LIVE = f"""<interface type='hostdev' managed='yes'>
      <mac address='{MAC}'/>
      <driver name='vfio' model='mlx5_vfio_pci'/>
      <source>
        <address type='pci' domain='0x0000' bus='0x81' slot='0x00' function='0x2'/>
      </source>
      <teaming type='transient' persistent='ua-s'/>
      <alias name='hostdev0'/>
      <acpi index='7'/>
      <rom bar='off'/>
      <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>
    </interface>"""
KEPT = (
    f"<interface type='hostdev' managed='yes'><mac address='{MAC}'/><driver name='vfio' model='mlx5_vfio_pci'/>"
    "<source><address type='pci' domain='0x0000' bus='0x81' slot='0x00' function='0x2'/></source>"
    "<teaming type='transient' persistent='ua-s'/><acpi index='7'/><rom bar='off'/>"
    "<address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/></interface>"
)


def test_a_device_is_kept_without_what_libvirt_added() -> None:
    assert device_text.kept(LIVE) == KEPT
    own = LIVE.replace("hostdev0", "ua-mine")
    assert "<alias name='ua-mine'/>" in device_text.kept(own)


def test_another_vf_takes_its_place_and_all_else_stays() -> None:
    there = KEPT.replace("bus='0x81' slot='0x00' function='0x2'", "bus='0x41' slot='0x00' function='0x3'")
    assert device_text.with_vf(KEPT, VF, mac=MAC) == there
    moved = there.replace("bus='0x05'", "bus='0x06'")
    assert device_text.with_vf(KEPT, VF, mac=MAC, slot=SLOT) == moved
    assert device_text.standby_of(there) == "ua-s"


@pytest.mark.parametrize(
    "text",
    [
        None,
        "no XML",
        KEPT.replace(MAC, "52:54:00:00:00:03"),
        KEPT.replace("type='hostdev'", "type='bridge'"),
        "<disk type='file'><source file='/etc/shadow'/></disk>",
        "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='2'/></source></hostdev>",
        KEPT.replace("<source>", "<source><x/>"),
        KEPT.replace("<acpi", "<source><address type='pci'/></source><acpi"),
        KEPT.replace("<acpi", "<address type='pci'/><acpi"),
    ],
)
def test_a_text_that_is_not_that_of_the_vf_is_not_used(text: str) -> None:
    """Anyone with access to libvirt can write it."""
    assert device_text.with_vf(text, VF, mac=MAC, slot=SLOT) is None
