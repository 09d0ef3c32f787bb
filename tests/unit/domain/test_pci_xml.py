# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI addresses in libvirt's XML: read as libvirt reads them, written as libvirt writes them."""

from __future__ import annotations

import pytest

from vfmigrate.domain import pci_xml
from vfmigrate.errors import InputError
from vfmigrate.model.pci import PciAddress

VF = PciAddress(0, 0xE1, 0x1F, 7)


def test_render_writes_what_libvirt_writes() -> None:
    assert pci_xml.render(VF) == "<address type='pci' domain='0x0000' bus='0xe1' slot='0x1f' function='0x7'/>"
    assert pci_xml.render(VF, with_type=False).startswith("<address domain='0x0000' bus=")


def test_read_undoes_attributes() -> None:
    assert pci_xml.read(pci_xml.attributes(VF).get) == VF


def test_read_takes_decimal_numbers_and_missing_ones() -> None:
    assert pci_xml.read({"bus": "12", "function": "1"}.get) == PciAddress(0, 12, 0, 1)


@pytest.mark.parametrize("attributes", [{"bus": "two"}, {"slot": "0x20"}, {"function": "8"}, {"bus": "-1"}])
def test_read_refuses_what_is_not_an_address(attributes: dict[str, str]) -> None:
    with pytest.raises(InputError, match="the domain XML has a PCI address"):
        pci_xml.read(attributes.get)
