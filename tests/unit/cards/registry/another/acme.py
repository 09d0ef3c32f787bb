# SPDX-License-Identifier: GPL-2.0-or-later
"""Cards of a vendor that there is not: all that adding a vendor takes."""

from __future__ import annotations

from vfmigrate.cards.vendor import Vendor


class Acme(Vendor):
    """Cards whose variant driver needs no flag."""

    pci_vendor = 0xAC3E
    pci_devices = frozenset({0x0001})
    max_migrating = 2
    load_driver = "modprobe acme"
    install_variant = "install acme-kmod"


VENDOR = Acme()
