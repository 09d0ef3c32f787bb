# SPDX-License-Identifier: GPL-2.0-or-later
"""Who binds a VF to its VFIO driver, libvirt or we: decided from libvirt's version. Pure.

From 10.0 on libvirt looks for the best VFIO variant driver of a device that it manages. Before, it binds vfio-pci,
whose devices cannot migrate; libvirt binds between the hook's `prepare` and `start`, and QEMU opens the device after
`start`, so there we bind once more. A device that it does not manage must be bound when it looks, between the same
two: to any VFIO driver from 9.7 on, which libvirt knows by `vfio-dev` in sysfs, and to vfio-pci by its name before.
(virPCIDeviceFindBestVFIOVariant and virPCIDeviceGetCurrentDriverNameAndType in src/util/virpci.c)
"""

from __future__ import annotations

from typing import Optional

from vfmigrate.model.vfio import GENERIC_DRIVER

#: libvirt's versions as it counts them: 10.3.2 is 10003002
CHOOSES_VARIANT = 10_000_000
KNOWS_VARIANTS = 9_007_000

#: stands for the best driver that this kernel has for a VF
VARIANT = "variant"


def driver(version: int, *, managed: bool, started: bool) -> Optional[str]:
    """What we bind a VF to whose state is to travel: VARIANT, vfio-pci, or None: libvirt does what is right.

    `started`: libvirt has prepared the VF, and QEMU may begin.
    """
    if managed:
        return VARIANT if started and version < CHOOSES_VARIANT else None
    return VARIANT if started or version >= KNOWS_VARIANTS else GENERIC_DRIVER
