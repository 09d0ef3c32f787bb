# SPDX-License-Identifier: GPL-2.0-or-later
"""The files that libvirt's XML of domains and storage pools names.

Pure. Formats: https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms, https://libvirt.org/formatstorage.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from lxml import etree

from vfmigrate.domain import xml_parser
from vfmigrate.errors import InputError


@dataclass(frozen=True)
class KnownStorage:
    """What a host's libvirt names: the paths of disks of domains, and the directories of storage pools."""

    disks: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()


def disk_path(disk: etree._Element) -> Optional[str]:
    """The path of a <disk>; None when it is no file or block device, as one on the network."""
    source, kind = disk.find("source"), disk.get("type", "")
    if source is None or kind not in ("file", "block"):
        return None
    return source.get("file" if kind == "file" else "dev")


def disks(domain: str) -> list[str]:
    """The paths of a domain's disks; none of XML that cannot be read."""
    try:
        found = xml_parser.parse(domain, "the domain XML").findall("devices/disk")
    except InputError:
        return []
    return [path for path in map(disk_path, found) if path is not None]


def pool_target(pool: str) -> Optional[str]:
    """The directory of a storage pool's volumes, without a slash at its end; None when it has none."""
    try:
        path = xml_parser.parse(pool, "the XML of a storage pool").findtext("target/path")
    except InputError:
        return None
    return path.rstrip("/") if path is not None and path.startswith("/") else None
