# SPDX-License-Identifier: GPL-2.0-or-later
"""The trace ID in a running domain's `<metadata>`: it names the next migration of the guest, on both hosts.

The daemon writes one when a guest runs here, so it is there before whoever migrates the guest, by whatever program. It
is part of the migration XML: the destination's log has it from the hook operation `migrate` on, the source's from
`stopped` on, and `vfmigrate migrate` reads it before it begins. A migration that failed and is tried again has the same
ID. The destination writes a new one when the guest has arrived.

    <vfmigrate-trace:migration xmlns:vfmigrate-trace="urn:vfmigrate:trace:1" id="91c3b0a7d2e84f16" host="host-a"/>

It is an element of its own, so that programs that write marks (metadata.py) do not have to know it. Anyone with access
to libvirt can write it: it decides nothing, and anything that is not an ID is ignored.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Optional

from lxml import etree

from vfmigrate.domain import xml_parser

URI = "urn:vfmigrate:trace:1"
PREFIX = "vfmigrate-trace"

_ID = re.compile(r"[0-9a-f]{16}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class TraceMark:
    """The ID of the next migration of a guest, and the host that wrote it; None where it has no host name."""

    id: str
    host: Optional[str] = None

    def write(self) -> str:
        """The element for the metadata of a domain (virDomainSetMetadata adds prefix and namespace)."""
        element = etree.Element("migration", {"id": self.id})
        if self.host is not None:
            element.set("host", self.host)
        return etree.tostring(element, encoding="unicode")


def new(host: str) -> TraceMark:
    """A mark with an ID that no other migration has, written by `host`."""
    return TraceMark(secrets.token_hex(8), host if _HOST.fullmatch(host) else None)


def is_id(text: str) -> bool:
    """Whether a text has the form of a trace ID."""
    return _ID.fullmatch(text) is not None


def read(domain: etree._Element) -> Optional[TraceMark]:
    """The mark in a `<domain>` element; None when it has none, or one that is not of this form."""
    found = domain.find(f"metadata/{{{URI}}}migration")
    trace, host = (found.get("id", ""), found.get("host", "")) if found is not None else ("", "")
    return TraceMark(trace, host if _HOST.fullmatch(host) else None) if is_id(trace) else None


def of_domain(xml: str) -> Optional[TraceMark]:
    """The mark in the XML of a domain. Raises InputError for what is not XML."""
    return read(xml_parser.parse(xml, "the domain XML"))
