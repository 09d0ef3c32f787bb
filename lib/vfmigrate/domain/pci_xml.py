# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI addresses in libvirt's XML: `domain='0x0000' bus='0xe1' slot='0x00' function='0x1'` of an `<address>`."""

from __future__ import annotations

import re
from typing import Callable, Optional

from vfmigrate.errors import InputError
from vfmigrate.model.pci import PciAddress

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,8}|0[0-7]{0,11}|[1-9][0-9]{0,9}")
_OCTAL = re.compile("0[0-7]+")


def attributes(address: PciAddress) -> dict[str, str]:
    """The attributes of an `<address>`, in libvirt's order."""
    return {
        "domain": f"0x{address.domain:04x}",
        "bus": f"0x{address.bus:02x}",
        "slot": f"0x{address.slot:02x}",
        "function": f"0x{address.function:x}",
    }


def render(address: PciAddress, *, with_type: bool = True) -> str:
    """The `<address>` element as text; the source of a `<hostdev>` names no type."""
    texts = {"type": "pci", **attributes(address)} if with_type else attributes(address)
    words = " ".join(f"{key}='{text}'" for key, text in texts.items())
    return f"<address {words}/>"


def number(text: Optional[str]) -> int:
    """A number of a PCI address or controller as libvirt reads it: as strtoul with base 0.

    None and an empty text are 0. Raises InputError.
    """
    text = (text or "0").strip()
    if not _NUMBER.fullmatch(text):
        raise InputError("the domain XML has a PCI address that is not a number")
    return int(text, 8) if _OCTAL.fullmatch(text) else int(text, 0)


def read(get: Callable[[str], Optional[str]]) -> PciAddress:
    """The address of an `<address>` whose attributes `get` returns; what is missing is 0, as for libvirt.

    Raises InputError.
    """
    domain, bus, slot, function = (number(get(key)) for key in ("domain", "bus", "slot", "function"))
    if not (0 <= domain <= 0xFFFFFFFF and 0 <= bus <= 0xFF and 0 <= slot <= 0x1F and 0 <= function <= 7):
        raise InputError("the domain XML has a PCI address out of range")
    return PciAddress(domain, bus, slot, function)
