# SPDX-License-Identifier: GPL-2.0-or-later
"""VFIO in the kernel's words."""

from __future__ import annotations

#: the VFIO driver of every PCI device, which cannot migrate a device's state
GENERIC_DRIVER = "vfio-pci"
