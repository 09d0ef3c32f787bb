# SPDX-License-Identifier: GPL-2.0-or-later
"""What vfmigrated wrote into a running guest's `<metadata>`: which of its VFs is of which pool, and what it needs.

Matched by namespace, not by prefix: vdsm's own libvirt hook renames the prefixes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional
from xml.etree import ElementTree as ET

from vfmigrate_vdsm import properties

URI = "urn:vfmigrate:domain:1"


@dataclass(frozen=True)
class Mark:
    """One VF interface."""

    mac: str
    vf: str
    strategy: str
    facts: Mapping[str, str]

    def fact(self, key: str) -> Optional[str]:
        """What the mark says of `pool`, `psid` or `firmware`."""
        return self.facts.get(key)

    def number(self, key: str) -> Optional[int]:
        """What the mark says of `vlan` or `msix`."""
        text = self.facts.get(key, "")
        return int(text) if text.isdigit() else None


def read(domain: ET.Element) -> list[Mark]:
    """The marks of a domain that have both a MAC and an address."""
    marks = []
    for found in domain.iterfind(f"metadata/{{{URI}}}vfs/{{{URI}}}vf"):
        mac, vf = found.get("mac"), found.get("address")
        if mac and vf:
            marks.append(Mark(mac.lower(), vf, found.get("strategy", properties.VFIO), dict(found.attrib)))
    return marks
