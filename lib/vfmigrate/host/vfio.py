# SPDX-License-Identifier: GPL-2.0-or-later
"""Ask a VF through VFIO what its driver can migrate.

Owns the few messages of VFIO and IOMMUFD that this takes; numbers and layouts are those of the kernel's linux/vfio.h.
The device is opened as QEMU opens it: by its group and a container, or by its own node and IOMMUFD where the kernel has
no groups. No memory is mapped for it, and it is closed again at once. Opening a device resets it, and nobody else can
open it meanwhile: only call this for a VF that is free, and hold its lock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import MigrationSupport
from vfmigrate.os_errors import exists

_BASE = ord(";") << 8 | 100  # _IO(VFIO_TYPE, VFIO_BASE)
SET_IOMMU = _BASE + 2
GROUP_GET_STATUS = _BASE + 3
GROUP_SET_CONTAINER = _BASE + 4
GROUP_GET_DEVICE_FD = _BASE + 6
DEVICE_FEATURE = _BASE + 17
DEVICE_BIND_IOMMUFD = _BASE + 18

TYPE1V2_IOMMU = 3
GROUP_VIABLE = 1 << 0

FEATURE_GET = 1 << 16
FEATURE_SET = 1 << 17
FEATURE_PROBE = 1 << 18
FEATURE_MIGRATION = 1
FEATURE_DMA_LOGGING_START = 6
FEATURE_MIG_DATA_SIZE = 9

MIGRATION_STOP_COPY = 1 << 0
MIGRATION_P2P = 1 << 1
MIGRATION_PRE_COPY = 1 << 2

#: struct vfio_group_status: size, flags
GROUP_STATUS = struct.Struct("=II")
#: struct vfio_device_feature with the one number that our features have: size, flags, data
FEATURE = struct.Struct("=IIQ")
#: struct vfio_device_bind_iommufd: size, flags, descriptor of /dev/iommu, ID given by the kernel
BIND_IOMMUFD = struct.Struct("=IIiI")
_DESCRIPTOR = struct.Struct("=i")


@dataclass(frozen=True)
class VfioNodes:
    """The nodes of a VF below /dev, relative to it: its group's, and since Linux 6.6 its own."""

    group: Optional[str] = None
    device: Optional[str] = None


class Vfio:
    """VFIO of this host; `dev` is where the device nodes are. Thread-safe."""

    def __init__(self, dev: Path = Path("/dev")) -> None:
        self._dev = dev

    def ask(self, vf: PciAddress, nodes: VfioNodes, driver: str) -> MigrationSupport:
        """What `driver`, to which the VF is bound, can migrate. Raises HostError if the VF cannot be asked."""
        with ExitStack() as opened:
            try:
                device = self._open_device(opened, vf, nodes)
                flags = _feature(device, FEATURE_GET | FEATURE_MIGRATION) or 0
                logs = _feature(device, FEATURE_PROBE | FEATURE_SET | FEATURE_DMA_LOGGING_START)
                size = _data_size(device) if flags & MIGRATION_STOP_COPY else None
            except OSError as error:
                raise _refused(vf, error) from None
        return MigrationSupport(
            driver,
            stop_copy=bool(flags & MIGRATION_STOP_COPY),
            p2p=bool(flags & MIGRATION_P2P),
            pre_copy=bool(flags & MIGRATION_PRE_COPY),
            dma_logging=logs is not None,
            data_size=size,
        )

    def _open_device(self, opened: ExitStack, vf: PciAddress, nodes: VfioNodes) -> int:
        container = self._dev / "vfio/vfio"
        if nodes.group is not None and exists(self._dev / nodes.group) and exists(container):
            return _by_group(opened, vf, self._dev / nodes.group, container)
        iommufd = self._dev / "iommu"
        if nodes.device is not None and exists(self._dev / nodes.device) and exists(iommufd):
            return _by_iommufd(opened, self._dev / nodes.device, iommufd)
        raise HostError(
            f"VF {vf} has no device node of VFIO", "see ls -l /dev/vfio, and load the module vfio_iommu_type1"
        )


def _by_group(opened: ExitStack, vf: PciAddress, group_node: Path, container_node: Path) -> int:
    container = _open(opened, container_node)
    group = _open(opened, group_node)
    status = bytearray(GROUP_STATUS.pack(GROUP_STATUS.size, 0))
    fcntl.ioctl(group, GROUP_GET_STATUS, status)
    if not GROUP_STATUS.unpack(status)[1] & GROUP_VIABLE:
        raise HostError(
            f"VF {vf} shares its IOMMU group with devices that have host drivers",
            f"see ls /sys/bus/pci/devices/{vf}/iommu_group/devices",
        )
    fcntl.ioctl(group, GROUP_SET_CONTAINER, bytearray(_DESCRIPTOR.pack(container)))
    fcntl.ioctl(container, SET_IOMMU, TYPE1V2_IOMMU)
    name = bytearray(str(vf).encode() + b"\0")
    return _closed_with(opened, fcntl.ioctl(group, GROUP_GET_DEVICE_FD, name))


def _by_iommufd(opened: ExitStack, device_node: Path, iommufd_node: Path) -> int:
    iommufd = _open(opened, iommufd_node)
    device = _open(opened, device_node)
    fcntl.ioctl(device, DEVICE_BIND_IOMMUFD, bytearray(BIND_IOMMUFD.pack(BIND_IOMMUFD.size, 0, iommufd, 0)))
    return device


def _open(opened: ExitStack, node: Path) -> int:
    return _closed_with(opened, os.open(node, os.O_RDWR | os.O_CLOEXEC))


def _closed_with(opened: ExitStack, descriptor: int) -> int:
    opened.callback(os.close, descriptor)
    return descriptor


def _feature(device: int, flags: int) -> Optional[int]:
    """The data of a feature; None where the driver does not have the feature (ENOTTY)."""
    request = bytearray(FEATURE.pack(FEATURE.size, flags, 0))
    try:
        fcntl.ioctl(device, DEVICE_FEATURE, request)
    except OSError as error:
        if error.errno == errno.ENOTTY:
            return None
        raise
    return int(FEATURE.unpack(request)[2])


def _data_size(device: int) -> Optional[int]:
    try:
        return _feature(device, FEATURE_GET | FEATURE_MIG_DATA_SIZE)
    except OSError:  # only an estimate: the VF can migrate without it
        return None


def _refused(vf: PciAddress, error: OSError) -> HostError:
    reason: Union[str, int, None] = error.strerror or error.errno
    where = f"{error.filename}: " if error.filename else ""
    remedies = {
        errno.EPERM: "see DeviceAllow= in systemctl cat vfmigrated, and ausearch -m avc -c vfmigrated",
        errno.EACCES: "see DeviceAllow= in systemctl cat vfmigrated, and ausearch -m avc -c vfmigrated",
        errno.EBUSY: "see which process uses it: fuser -v /dev/vfio/*",
        errno.ENODEV: "load the driver of the IOMMU: modprobe vfio_iommu_type1",
    }
    return HostError(
        f"VF {vf} cannot be asked through VFIO: {where}{reason}", remedies.get(error.errno or 0, "see dmesg")
    )
