# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML of a VF's device, kept while its guest is without it: another VF takes its place, and all else stays. Pure.

A device that is made from MAC and address alone would lack its alias, boot order, ROM and driver model, and also what
the guest's system derives the name of the NIC from, such as `<acpi index>`. The text is in the guest's metadata, which
anyone with access to libvirt can write: whoever plugs it in gets a VF of a pool from it and nothing else.
"""

from __future__ import annotations

import re
from typing import Optional

from vfmigrate.domain import pci_xml, xml_parser
from vfmigrate.domain.markup import Markup
from vfmigrate.errors import InputError
from vfmigrate.model.pci import PciAddress


def kept(device: str) -> str:
    """A running guest's device as it is kept: without white space between elements and without libvirt's own alias."""
    text = re.sub(r">\s+<", "><", device.strip())
    markup = Markup(text)
    alias = markup.root.first("alias")
    if alias is not None and not alias.attributes.get("name", "").startswith("ua-"):
        markup.remove(alias)
    return markup.text()


def with_vf(
    text: Optional[str], vf: PciAddress, *, mac: Optional[str], slot: Optional[PciAddress] = None
) -> Optional[str]:
    """The kept device with another VF; None where the text is not that of a VF with this MAC.

    The MAC of a plain <hostdev> is not in its text. `slot` is the guest's PCI address that the device must have.
    """
    if text is None:
        return None
    try:
        root = xml_parser.parse(text, "the XML of a device")
        markup = Markup(text)
    except InputError:
        return None
    is_vf = (root.tag, root.get("mode", "subsystem"), root.get("type")) == ("hostdev", "subsystem", "pci")
    if root.tag == "interface" and root.get("type") == "hostdev":
        element = root.find("mac")
        is_vf = element is not None and element.get("address", "").lower() == mac
    source, sources = markup.root.first("source/address"), root.findall("source")
    place, places = markup.root.first("address"), root.findall("address")
    if not is_vf or source is None or len(sources) != 1 or len(sources[0]) != 1 or len(places) > 1:
        return None
    markup.set_attributes(source, pci_xml.attributes(vf))
    if slot is not None:
        if place is None or places[0].get("type") != "pci":
            return None
        markup.set_attributes(place, pci_xml.attributes(slot))
    return markup.text()


def standby_of(text: str) -> Optional[str]:
    """The alias of the standby that a kept device is teamed with; None without one."""
    return Markup(text).root.get("teaming", "persistent")
