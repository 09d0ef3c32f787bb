# SPDX-License-Identifier: GPL-2.0-or-later
"""Finds the vendor of a card: every module of this package with a `VENDOR` is one."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterable
from typing import Callable, Optional

from vfmigrate import cards
from vfmigrate.cards import generic
from vfmigrate.cards.vendor import Vendor
from vfmigrate.errors import InputError
from vfmigrate.model.pci import PciAddress, PciId


class Vendors:
    """Vendors of cards, to be looked up by the PCI ID of a PF."""

    def __init__(self, vendors: Iterable[Vendor]) -> None:
        # One that names device IDs goes before one that is for all of a PCI vendor's.
        self.all = tuple(sorted(vendors, key=lambda vendor: vendor.pci_devices is None))

    def of(self, pci_id: Optional[PciId]) -> Vendor:
        """The vendor of a PF; the generic one if no module is for it, or its ID is unknown (None)."""
        if pci_id is None:
            return generic.VENDOR
        return next((vendor for vendor in self.all if vendor.is_for(pci_id)), generic.VENDOR)

    def named(self, pci_id: Optional[str]) -> Vendor:
        """The vendor of a PF whose ID another host reports, as text."""
        try:
            return self.of(PciId.parse(pci_id) if pci_id is not None else None)
        except InputError:
            return generic.VENDOR

    def reading_settings_by(self, read: Callable[[PciAddress], Optional[int]]) -> Vendors:
        """The same vendors, for whose findings settings of the firmware are read by `read`."""
        return Vendors(vendor.reading_setting_by(read) for vendor in self.all)

    def kernel_remedies(self) -> dict[str, str]:
        """The remedies of all vendors for refusals of the kernel, by a part of its text."""
        return {part: remedy for vendor in self.all for part, remedy in vendor.kernel_remedies.items()}


def discover() -> Vendors:
    """Find the vendors in the package."""
    names = sorted(module.name for module in pkgutil.iter_modules(cards.__path__))
    modules = [importlib.import_module(f"{cards.__name__}.{name}") for name in names]
    return Vendors(module.VENDOR for module in modules if hasattr(module, "VENDOR"))


@functools.cache
def known() -> Vendors:
    """The vendors in the package, found once."""
    return discover()
