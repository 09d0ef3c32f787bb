# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VFIO driver vfmigrate binds a VF to, and when: that depends on what libvirt does. Pure.

A newer libvirt finds the best VFIO variant driver for a managed device itself; an older one binds vfio-pci, whose
devices cannot migrate. It does so between the hook operations `prepare` and `start`, and QEMU opens the device after
`start`. So at `start` we look which driver it bound, and bind the device again if that is vfio-pci.

A device that is not managed must have its driver before libvirt checks it, also between these two: any VFIO driver from
9.7 on, which libvirt recognizes by `vfio-dev` in sysfs, and vfio-pci before. Here the version decides, because libvirt
does not report which of them it would accept. All accept vfio-pci.
(virPCIDeviceFindBestVFIOVariant and virPCIDeviceGetCurrentDriverNameAndType in src/util/virpci.c)
"""

from __future__ import annotations

from typing import Optional

from vfmigrate.model.vfio import GENERIC_DRIVER

#: libvirt's versions as it counts them: 10.3.2 is 10003002
KNOWS_VARIANTS = 9_007_000

#: the best driver that this kernel has for a VF
VARIANT = "variant"


def driver(version: int, *, managed: bool, started: bool, bound: Optional[str]) -> Optional[str]:
    """The driver to bind for a VF whose state is to migrate: VARIANT, vfio-pci, or None where libvirt binds it.

    `started`: libvirt has prepared the VF, and QEMU is about to start. `bound` is the driver of the VF now.
    """
    if managed:
        return VARIANT if started and bound == GENERIC_DRIVER else None
    return VARIANT if started or version >= KNOWS_VARIANTS else GENERIC_DRIVER
