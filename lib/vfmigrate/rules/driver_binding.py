# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VFIO driver vfmigrate binds a VF to, and when: that depends on libvirt's version. Pure.

From 10.0 on, libvirt finds the best VFIO variant driver for a managed device itself. Before, it binds vfio-pci, whose
devices cannot migrate. It does so between the hook operations `prepare` and `start`, and QEMU opens the device after
`start`, so at `start` we bind the device again. A device that is not managed must have its driver before libvirt
checks it, also between these two: any VFIO driver from 9.7 on, which libvirt recognizes by `vfio-dev` in sysfs, and
vfio-pci before.
(virPCIDeviceFindBestVFIOVariant and virPCIDeviceGetCurrentDriverNameAndType in src/util/virpci.c)
"""

from __future__ import annotations

from typing import Optional

from vfmigrate.model.vfio import GENERIC_DRIVER

#: libvirt's versions as it counts them: 10.3.2 is 10003002
CHOOSES_VARIANT = 10_000_000
KNOWS_VARIANTS = 9_007_000

#: the best driver that this kernel has for a VF
VARIANT = "variant"


def driver(version: int, *, managed: bool, started: bool) -> Optional[str]:
    """The driver to bind for a VF whose state is to migrate: VARIANT, vfio-pci, or None where libvirt binds it.

    `started`: libvirt has prepared the VF, and QEMU is about to start.
    """
    if managed:
        return VARIANT if started and version < CHOOSES_VARIANT else None
    return VARIANT if started or version >= KNOWS_VARIANTS else GENERIC_DRIVER
