# SPDX-License-Identifier: GPL-2.0-or-later
"""VFIO in the kernel's words: drivers, and what a driver answers about migration (linux/vfio.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

#: the VFIO driver of every PCI device, which cannot migrate a device's state
GENERIC_DRIVER = "vfio-pci"


@dataclass(frozen=True)
class MigrationSupport:
    """What the VFIO driver of a VF answers about its migration (VFIO_DEVICE_FEATURE)."""

    #: the driver that answered
    driver: str
    #: the device's state can be saved and restored; without this, the VF cannot migrate
    stop_copy: bool = False
    #: DMA between devices can be stopped on its own, which QEMU requires of a guest with several VFs that migrate
    p2p: bool = False
    #: a part of the state can be saved while the guest runs
    pre_copy: bool = False
    #: the device logs the memory that it writes by DMA
    dma_logging: bool = False
    #: bytes of state to save while the guest is stopped, as the driver estimates it for an idle VF; None: unknown
    data_size: Optional[int] = None

    def __str__(self) -> str:
        if not self.stop_copy:
            return f"{self.driver} offers no migration"
        features = ("P2P" * self.p2p, "pre-copy" * self.pre_copy, "DMA logging" * self.dma_logging)
        size = f"{size_text(self.data_size)} of state" if self.data_size is not None else ""
        return f"{self.driver}: " + (", ".join(filter(None, (*features, size))) or "migration")


def size_text(size: int) -> str:
    """A number of bytes, in the unit that suits it."""
    for unit, bytes_of_unit in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bytes_of_unit:
            return f"{size / bytes_of_unit:.0f} {unit}"
    return f"{size} bytes"
