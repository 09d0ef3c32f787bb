# SPDX-License-Identifier: GPL-2.0-or-later
"""Which mark is that of which interface, also where several interfaces have one MAC."""

from __future__ import annotations

from typing import Optional

import pytest

from vfmigrate.domain.domain_xml import VfInterface
from vfmigrate.domain.mark_matching import match
from vfmigrate.domain.metadata import Mark
from vfmigrate.model.pci import PciAddress

MAC = "52:54:00:00:00:02"
OTHER = "52:54:00:00:00:03"
A, B, C = (PciAddress(0, 1, 0, function) for function in (1, 2, 3))


def nic(at: int, mac: Optional[str] = MAC, address: Optional[PciAddress] = None) -> VfInterface:
    form = "hostdev" if mac is None else "network" if address is None else "interface"
    return VfInterface(at, form, mac=mac, address=address)


def mark(vlan: int, mac: Optional[str] = MAC, address: Optional[PciAddress] = None) -> Mark:
    return Mark(mac=mac, address=address, pool="data", vlan=vlan)


@pytest.mark.parametrize(
    ("interfaces", "marks", "vlans"),
    [
        pytest.param([nic(0), nic(1)], [mark(42), mark(43)], [42, 43], id="one MAC: in order"),
        pytest.param(
            [nic(0, MAC, A), nic(1, MAC, B)],
            [mark(43, MAC, B), mark(42, MAC, A)],
            [42, 43],
            id="one MAC: address before order",
        ),
        pytest.param(
            [nic(0, MAC, A), nic(1, MAC, B)],
            [mark(42), mark(43, MAC, B)],
            [42, 43],
            id="one MAC: one by address, the other is left",
        ),
        pytest.param([nic(0, MAC, B)], [mark(42, MAC, A), mark(43, MAC, B)], [43], id="one MAC: one is gone"),
        pytest.param([nic(0), nic(1)], [mark(42)], [42, 42], id="one mark for a MAC is for each of its NICs"),
        pytest.param([nic(0, MAC, A)], [mark(42), mark(43)], [None], id="two marks and one NIC: unclear"),
        pytest.param(
            [nic(0), nic(1), nic(2)], [mark(42), mark(43)], [None] * 3, id="two marks and three NICs: unclear"
        ),
        pytest.param(
            [nic(0, MAC, A), nic(1, MAC, B)],
            [mark(42, MAC, A)],
            [42, None],
            id="a mark with an address is not for its twin",
        ),
        pytest.param([nic(0, OTHER, A)], [mark(42, MAC, A)], [42], id="the MAC was changed"),
        pytest.param([nic(0, OTHER, A)], [mark(42, MAC, B)], [None], id="another MAC and another VF"),
        pytest.param([nic(0, None, A)], [mark(42, MAC, A)], [42], id="a plain hostdev by address"),
        pytest.param(
            [nic(0, MAC), nic(1, None, A)],
            [mark(42, MAC, A)],
            [None, 42],
            id="a plain hostdev in a bond with a virtio NIC of its MAC",
        ),
        pytest.param([nic(0, None, C)], [mark(42, MAC, A)], [None], id="a plain hostdev at another address"),
    ],
)
def test_each_interface_gets_its_own_mark(
    interfaces: list[VfInterface], marks: list[Mark], vlans: list[Optional[int]]
) -> None:
    assert [found.vlan if found is not None else None for found in match(interfaces, marks)] == vlans
