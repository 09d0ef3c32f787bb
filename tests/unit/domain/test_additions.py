# SPDX-License-Identifier: GPL-2.0-or-later
"""What was added to a definition, and that it is removed in any order."""

from __future__ import annotations

import itertools

import pytest

from tests.unit.domain.test_attachment import PLAIN
from vfmigrate.domain import additions, attachment
from vfmigrate.domain.attachment import Attachment

MACS = tuple(f"52:54:00:00:00:7{number}" for number in range(3))
EMPTY = PLAIN.replace("</uuid>\n", "</uuid>\n  <metadata/>\n")
COMMENT = PLAIN.replace(
    "</uuid>\n", "</uuid>\n  <metadata>\n    <!-- web, do not delete -->\n  </metadata>\n"
)
MARKS = PLAIN.replace(
    "</uuid>\n", "</uuid>\n  <metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'></v:vfs> </metadata>\n"
)


def port(index: int) -> str:
    return f"    <controller type='pci' index='{index}' model='pcie-root-port'/>\n"


def attached(xml: str, mac: str, index: int) -> str:
    """The definition with another VF, as libvirt writes it: on a port that it added."""
    changed = attachment.attached(xml, Attachment(mac, "data", "vfmigrate-data"))
    address = f"<address type='pci' domain='0x0000' bus='0x0{index}' slot='0x00' function='0x0'/>"
    marker = f"<mac address='{mac}'/>"
    with_port = changed.replace("    <interface", port(index) + "    <interface", 1)
    return additions.note_controllers(xml, with_port.replace(marker, f"{marker}{address}"))


@pytest.mark.parametrize("xml", [PLAIN, EMPTY, COMMENT, MARKS], ids=["plain", "empty", "comment", "no marks"])
@pytest.mark.parametrize(
    "order", itertools.permutations(MACS), ids=lambda order: "".join(mac[-1] for mac in order)
)
def test_vfs_and_their_ports_are_removed_in_any_order(xml: str, order: tuple[str, ...]) -> None:
    changed = xml
    for index, mac in enumerate(MACS, start=3):
        changed = attached(changed, mac, index)
    assert changed.count("pcie-root-port") == 5
    for mac in order:
        vf = attachment.find(changed, mac)
        assert vf is not None
        changed = attachment.detached(changed, vf)
    assert changed == xml


def test_a_port_that_another_device_is_on_stays() -> None:
    changed = attached(PLAIN, MACS[0], 3)
    other = "<rng><address type='pci' bus='3' slot='1'/></rng>"
    vf = attachment.find(changed, MACS[0])
    assert vf is not None
    restored = attachment.detached(changed.replace("</devices>", f"{other}</devices>"), vf)
    assert restored.replace(port(3), "").replace(other, "") == PLAIN
    assert port(3) in restored
