# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration space of a PCI device (PCI specification 3.0, chapter 6). Pure: bytes in, values out."""

from __future__ import annotations

from typing import Optional

#: how many bytes from the beginning `is_bus_master` needs
HEAD_BYTES = 6
#: how many bytes a process without CAP_SYS_ADMIN can read (pci_read_config() in the kernel's drivers/pci/pci-sysfs.c)
PUBLIC_BYTES = 64
#: where the part that holds the capabilities ends: `msix_count` needs all before it
CAPABILITIES_END = 256

_COMMAND_BUS_MASTER = 0x4
_STATUS_HAS_CAPABILITIES = 0x10
_MSIX_CAPABILITY = 0x11
# The most that fit. The list of a broken device can have a loop.
_MOST_CAPABILITIES = 48


def msix_count(space: bytes) -> Optional[int]:
    """The size of the MSI-X table (6.8.2); None when there is none."""
    if len(space) < CAPABILITIES_END or not space[6] & _STATUS_HAS_CAPABILITIES:
        return None
    offset = space[0x34] & ~3
    for _ in range(_MOST_CAPABILITIES):
        if not 0x40 <= offset <= 0xFC:
            break
        if space[offset] == _MSIX_CAPABILITY:
            return (int.from_bytes(space[offset + 2 : offset + 4], "little") & 0x7FF) + 1
        offset = space[offset + 1] & ~3
    return None


def is_bus_master(space: bytes) -> bool:
    """Whether bus mastering is enabled (6.2.2); false for a device that does not answer."""
    command = int.from_bytes(space[4:6], "little")
    return command != 0xFFFF and bool(command & _COMMAND_BUS_MASTER)
