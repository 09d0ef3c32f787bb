# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI addresses in libvirt's XML: `domain='0x0000' bus='0xe1' slot='0x00' function='0x1'` of an `<address>`."""

from __future__ import annotations

from typing import Callable, Optional

from vfmigrate.errors import InputError
from vfmigrate.model.pci import PciAddress


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


def read(get: Callable[[str], Optional[str]]) -> PciAddress:
    """The address of an `<address>` whose attributes `get` returns; what is missing is 0, as for libvirt.

    Raises InputError.
    """
    try:
        domain, bus, slot, function = (
            int(get(key) or "0", 0) for key in ("domain", "bus", "slot", "function")
        )
    except ValueError:
        raise InputError("the domain XML has a PCI address that is not a number") from None
    if not (0 <= domain <= 0xFFFFFFFF and 0 <= bus <= 0xFF and 0 <= slot <= 0x1F and 0 <= function <= 7):
        raise InputError("the domain XML has a PCI address out of range")
    return PciAddress(domain, bus, slot, function)
