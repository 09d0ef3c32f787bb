# SPDX-License-Identifier: GPL-2.0-or-later
"""The marks in a domain's `<metadata>`: one for each interface with a VF of a pool.

The daemon writes the marks when a domain starts. They are part of the migration XML, and the destination reads from
them pool, VLAN and strategy of each VF, and the card of the source. An administrator can write them too, to select
a VLAN:

    <metadata>
      <vfmigrate:vfs xmlns:vfmigrate="urn:vfmigrate:domain:1">
        <vfmigrate:vf mac="52:54:00:01:02:03" pool="data" vlan="42"/>
      </vfmigrate:vfs>
    </metadata>

Anyone with access to libvirt can write metadata, so it is untrusted input: it can cause a refusal, or select what the
configuration allows, and nothing else. Namespaces are matched by URI, because vdsm's own hook renames the prefixes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Optional

from lxml import etree

from vfmigrate.domain import xml_parser
from vfmigrate.errors import InputError
from vfmigrate.model import strategy
from vfmigrate.model.mac import is_mac
from vfmigrate.model.pci import PciAddress

URI = "urn:vfmigrate:domain:1"
PREFIX = "vfmigrate"

# A bound on hostile input. A guest has 256 PCI buses at most, and marks can be there of VFs that it does not have now.
_MAX_MARKS = 1024
#: how many VLANs of an open trunk are remembered; in each, an announcement sends a frame a round
MAX_SEEN = 64
#: characters of a device's XML that are kept
MAX_DEVICE = 4096
_WORD = re.compile(r"[\x21-\x7e]{1,64}")


@dataclass(frozen=True)
class Mark:
    """The mark of one interface; None for what it does not say."""

    mac: Optional[str] = None
    #: host address of the VF where the domain last ran; identifies a plain <hostdev>, whose XML has no MAC
    address: Optional[PciAddress] = None
    pool: Optional[str] = None
    vlan: Optional[int] = None
    trunks: tuple[int, ...] = ()
    strategy: Optional[str] = None
    #: PSID and running firmware of the card of the source
    psid: Optional[str] = None
    firmware: Optional[str] = None
    #: size of the VF's MSI-X table
    msix: Optional[int] = None
    #: the physical function of the VF where the domain last ran
    pf: Optional[PciAddress] = None
    #: VLANs in which the source's bridge has seen the MAC, of an open trunk; 0 is no tag
    seen_in: tuple[int, ...] = ()
    #: the XML of its device, for strategies that unplug it (device_text)
    device: Optional[str] = None

    def without_vf(self) -> Mark:
        """The mark without what it says of a VF: of an interface that has none at present."""
        return replace(
            self, address=None, psid=None, firmware=None, msix=None, pf=None, seen_in=(), device=None
        )


def _unreadable(what: str) -> InputError:
    return InputError(
        f"the domain's vfmigrate metadata cannot be read: {what}",
        f"correct it, or remove it: virsh metadata GUEST {URI} --remove",
    )


def _number(element: etree._Element, key: str, low: int, high: int) -> Optional[int]:
    text = element.get(key)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}", text) or not low <= int(text) <= high:
        raise _unreadable(f"{key}='{text[:20]}'")
    return int(text)


def _word(element: etree._Element, key: str) -> Optional[str]:
    text = element.get(key)
    if text is not None and not _WORD.fullmatch(text):
        raise _unreadable(f"{key}='{text[:20]!a}'")
    return text


def _vlans(element: etree._Element, key: str) -> tuple[int, ...]:
    vlans = element.get(key, "").split()
    if len(vlans) > 4094 or any(not re.fullmatch(r"[0-9]{1,4}", vlan) or int(vlan) > 4094 for vlan in vlans):
        raise _unreadable(key)
    return tuple(sorted({int(vlan) for vlan in vlans}))


def _device(element: etree._Element) -> Optional[str]:
    text = element.get("device")
    if text is not None and len(text) > MAX_DEVICE:
        raise _unreadable(f"a device of {len(text)} characters")
    return text


def _mark(element: etree._Element) -> Mark:
    mac = element.get("mac")
    if mac is not None:
        mac = mac.lower()
        if not is_mac(mac):
            raise _unreadable(f"mac='{mac[:20]!a}'")
    address, pf = element.get("address"), element.get("pf")
    if mac is None and address is None:
        raise InputError("the domain's vfmigrate metadata has a vf without mac and address")
    wanted = _word(element, "strategy")
    if wanted is not None and wanted not in strategy.NAMES:
        raise InputError(
            f"the domain's vfmigrate metadata has the unknown strategy '{wanted}'",
            f"the strategies are {', '.join(strategy.NAMES)}",
        )
    return Mark(
        mac=mac,
        address=PciAddress.parse(address) if address is not None else None,
        pool=_word(element, "pool"),
        vlan=_number(element, "vlan", 1, 4094),
        trunks=_vlans(element, "trunks"),
        strategy=wanted,
        psid=_word(element, "psid"),
        firmware=_word(element, "firmware"),
        msix=_number(element, "msix", 1, 2048),
        pf=PciAddress.parse(pf) if pf is not None else None,
        seen_in=_vlans(element, "seen-in")[:MAX_SEEN],
        device=_device(element),
    )


def read(domain: etree._Element) -> tuple[Mark, ...]:
    """The marks in a `<domain>` element, in document order; none when it has no metadata of ours.

    Raises InputError for metadata of ours that cannot be read.
    """
    marks: list[Mark] = []
    for vfs in domain.findall(f"metadata/{{{URI}}}vfs"):
        marks += [_mark(element) for element in vfs.findall(f"{{{URI}}}vf")]
    if len(marks) > _MAX_MARKS:
        raise InputError(
            f"the domain's vfmigrate metadata names {len(marks)} VFs", f"at most {_MAX_MARKS} are allowed"
        )
    return tuple(marks)


def of_domain(xml: str) -> tuple[Mark, ...]:
    """The marks in the XML of a domain. Raises InputError as `read`."""
    return read(xml_parser.parse(xml, "the domain XML"))


def merged(present: tuple[Mark, ...], of_claims: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """The marks to write: those of the domain's claims, and the present ones of interfaces without a VF.

    An administrator can write the mark of a VF before it is plugged in.
    """
    others = [mark for mark in present if mark.mac is not None]
    for claimed in of_claims:
        # interfaces can share a MAC: each claim stands for one of their marks
        same = [mark for mark in others if mark.mac == claimed.mac]
        if same:
            others.remove(min(same, key=lambda mark: (mark.address != claimed.address, mark.address is None)))
    return (*of_claims, *dict.fromkeys(mark.without_vf() for mark in others))[:_MAX_MARKS]


def write(marks: tuple[Mark, ...]) -> str:
    """The `<vfs>` element for the metadata of a domain (virDomainSetMetadata adds prefix and namespace)."""
    vfs = etree.Element("vfs")
    for mark in marks:
        element = etree.SubElement(vfs, "vf")
        texts = {
            "mac": mark.mac,
            "address": mark.address,
            "pool": mark.pool,
            "vlan": mark.vlan,
            "trunks": " ".join(map(str, mark.trunks)) or None,
            "strategy": mark.strategy,
            "psid": mark.psid,
            "firmware": mark.firmware,
            "msix": mark.msix,
            "pf": mark.pf,
            "device": mark.device,
            "seen-in": " ".join(map(str, mark.seen_in)) or None,
        }
        for key, value in texts.items():
            if value is not None:
                element.set(key, str(value))
    return etree.tostring(vfs, encoding="unicode")
