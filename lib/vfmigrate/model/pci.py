# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI addresses, as sysfs, devlink and libvirt's XML each write them, and PCI IDs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from vfmigrate.errors import InputError

_TEXT = re.compile(r"([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")
_ID_TEXT = re.compile(r"([0-9a-fA-F]{4}):([0-9a-fA-F]{4})")


@dataclass(frozen=True, order=True)
class PciAddress:
    """Domain, bus, slot and function of a PCI device; sorts as the bus does."""

    domain: int
    bus: int
    slot: int
    function: int

    @classmethod
    @lru_cache(maxsize=1 << 14)  # the same thousands are read from sysfs again and again
    def parse(cls, text: str) -> PciAddress:
        """Read `0000:e1:00.1`, the form of sysfs and devlink.

        Raises InputError when `text` is anything else.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise InputError(f"'{text[:40]}' is not a PCI address", "write it as 0000:e1:00.1")
        domain, bus, slot, function = (int(part, 16) for part in match.groups())
        if slot > 0x1F:
            raise InputError(f"'{text}' is not a PCI address: a slot is at most 1f")
        return cls(domain, bus, slot, function)

    @property
    def routing_id(self) -> int:
        """Bus, slot and function as one number, in which VFs are counted (SR-IOV specification 3.3.9)."""
        return self.bus << 8 | self.slot << 3 | self.function

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"


@dataclass(frozen=True)
class PciId:
    """Vendor and device ID of a PCI device: the make of it, where the address is the place."""

    vendor: int
    device: int

    @classmethod
    def parse(cls, text: str) -> PciId:
        """Read `8086:10c9`, the form of `lspci -n`. Raises InputError when `text` is anything else."""
        match = _ID_TEXT.fullmatch(text)
        if match is None:
            raise InputError(f"'{text[:40]}' is not a PCI ID", "write it as 8086:10c9")
        return cls(int(match[1], 16), int(match[2], 16))

    def __str__(self) -> str:
        return f"{self.vendor:04x}:{self.device:04x}"
