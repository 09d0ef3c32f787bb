# SPDX-License-Identifier: GPL-2.0-or-later
"""What sysfs shows of PCI devices: which there are, what they are, which VF belongs to which PF. Changes nothing.

Behaviour: Documentation/ABI/testing/sysfs-bus-pci and drivers/pci/iov.c.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Callable, Optional

from vfmigrate.errors import HostError
from vfmigrate.host import config_space
from vfmigrate.host.sysfs_files import bounded, exists, link_name, names, read_bytes, read_held, read_text
from vfmigrate.model.pci import PciAddress, PciId

#: network controller, InfiniBand (PCI Code and ID Assignment Specification, 1.3)
_INFINIBAND_CLASS = "0x0207"


class PciDevices:
    """The PCI devices below one mount of sysfs, read only; thread-safe.

    `root` is where sysfs is mounted; `config` reads configuration space where this process has no right to more than
    its head. All raise HostError: which device, what the kernel said, what to do.
    """

    def __init__(
        self,
        root: Path = Path("/sys"),
        *,
        config: Optional[Callable[[Sequence[PciAddress]], Mapping[PciAddress, bytes]]] = None,
    ) -> None:
        self._root = root
        self._devices = os.fspath(root / "bus/pci/devices")
        self._config = config

    def exists(self, device: PciAddress) -> bool:
        """Whether the device exists."""
        return exists(self._file(device))

    def is_pf(self, device: PciAddress) -> bool:
        """Whether a device can have VFs."""
        return exists(self._file(device, "sriov_totalvfs"))

    def pci_id(self, device: PciAddress) -> Optional[PciId]:
        """The vendor and device ID of a device; None when it does not exist."""
        try:
            vendor, number = (read_text(self._file(device, name)) for name in ("vendor", "device"))
        except HostError:
            if self.exists(device):
                raise
            return None
        return PciId(int(vendor, 16), int(number, 16))

    def is_infiniband(self, device: PciAddress) -> bool:
        """Whether a device is an InfiniBand adapter: its PCI class."""
        return read_text(self._file(device, "class")).startswith(_INFINIBAND_CLASS)

    def physfn(self, device: PciAddress) -> Optional[PciAddress]:
        """The PF of a VF; None when the device is not a VF, or does not exist."""
        name = link_name(self._file(device, "physfn"))
        return PciAddress.parse(name) if name is not None else None

    def vfs(self, pf: PciAddress) -> list[PciAddress]:
        """The VFs of a PF, in the order of their numbers."""
        return [vf for _, vf in sorted(self._numbered_vfs(pf))]

    def vf_index(self, vf: PciAddress) -> int:
        """The number of a VF on its PF."""
        pf = self.physfn(vf)
        if pf is not None:
            number = self._likely_index(pf, vf)
            if link_name(self._file(pf, f"virtfn{number}")) == str(vf):
                return number
            for number, address in self._numbered_vfs(pf):
                if address == vf:
                    return number
        raise HostError(f"PCI device {vf} is not a VF of this host", "see sriov_numvfs of its PF")

    def netdevs(self, device: PciAddress) -> list[str]:
        """The names of a device's network devices; those of a PF include the representors of its VFs."""
        return sorted(names(self._file(device, "net")))

    def iommu_group(self, device: PciAddress) -> list[PciAddress]:
        """The devices in the IOMMU group of a device, itself included; empty without an IOMMU."""
        return sorted(PciAddress.parse(name) for name in names(self._file(device, "iommu_group/devices")))

    def numa_node(self, device: PciAddress) -> Optional[int]:
        """The NUMA node of a device; None where the firmware names none."""
        try:
            node = int(read_text(self._file(device, "numa_node")))
        except (HostError, ValueError):
            return None
        return node if node >= 0 else None

    def msix_count(self, device: PciAddress) -> Optional[int]:
        """The size of a device's MSI-X table; None when it has none."""
        return self.msix_counts([device])[device]

    def msix_counts(self, devices: Iterable[PciAddress]) -> dict[PciAddress, Optional[int]]:
        """The size of the MSI-X table of each device; None for one that has none.

        It is in configuration space, which is read without a driver, but beyond its head only with CAP_SYS_ADMIN. Who
        has that is asked once for all devices.
        """
        spaces = bounded(
            "read configuration space",
            lambda: {
                device: read_bytes(self._file(device, "config"), config_space.CAPABILITIES_END)
                for device in devices
            },
        )
        if self._config is not None:
            heads = [device for device, space in spaces.items() if len(space) == config_space.PUBLIC_BYTES]
            spaces.update(self._config(heads))
        return {device: config_space.msix_count(space) for device, space in spaces.items()}

    def bus_master(self, device: PciAddress) -> bool:
        """Whether a driver has enabled bus mastering of a device.

        A driver enables it when it binds and disables it when it unbinds. VFIO passes a guest's writes of this bit to
        the device, and clears it when the device is opened. So for the VF of a guest, it says whether a driver in the
        guest is bound to it (drivers/vfio/pci/vfio_pci_config.c, vfio_basic_config_write()).
        """
        space = bounded(
            "read configuration space", read_bytes, self._file(device, "config"), config_space.HEAD_BYTES
        )
        return config_space.is_bus_master(space)

    def vf_modalias(self, pf: PciAddress) -> Optional[str]:
        """The modalias of a PF's VFs, as far as it is known before they exist; None when the kernel does not show it.

        Vendor and class are the PF's (SR-IOV specification 3.4.1), the device is in `sriov_vf_device`.
        """
        path = self._file(pf, "sriov_vf_device")
        if not exists(path):
            return None
        device = int(read_text(path), 16)
        return re.sub(r"d[0-9A-F]{8}sv", f"d{device:08X}sv", read_text(self._file(pf, "modalias")), count=1)

    def numvfs(self, pf: PciAddress) -> int:
        """The number of VFs of a PF."""
        return self._read_number(pf, "sriov_numvfs", read_held)

    def totalvfs(self, pf: PciAddress) -> int:
        """The number of VFs that a PF can have."""
        return self._read_number(pf, "sriov_totalvfs")

    def autoprobe(self, pf: PciAddress) -> bool:
        """Whether the kernel binds new VFs of the PF to drivers by itself."""
        return bool(self._read_number(pf, "sriov_drivers_autoprobe"))

    def vf_addresses(self, pf: PciAddress, count: int) -> list[PciAddress]:
        """The addresses that the first `count` VFs of a PF have, or would have (SR-IOV specification 3.3.9)."""
        offset, stride = (self._read_number(pf, f"sriov_{name}") for name in ("offset", "stride"))
        first = pf.routing_id + offset
        numbers = range(first, first + stride * count, stride) if stride else [first] * count
        return [PciAddress(pf.domain, rid >> 8, rid >> 3 & 0x1F, rid & 7) for rid in numbers]

    def _file(self, device: PciAddress, name: str = "") -> str:
        # Text, not Path: joining paths takes longer than reading a link, and a look at all VFs reads thousands.
        return f"{self._devices}/{device}/{name}"

    def _numbered_vfs(self, pf: PciAddress) -> list[tuple[int, PciAddress]]:
        directory = self._file(pf)
        numbered = []
        for name in names(directory):
            if name.startswith("virtfn") and name[6:].isdigit():
                address = link_name(directory + name)
                if address is not None:
                    numbered.append((int(name[6:]), PciAddress.parse(address)))
        return numbered

    def _likely_index(self, pf: PciAddress, vf: PciAddress) -> int:
        """The number of a VF if the addresses of the PF's VFs follow each other, as nearly all do; else any number."""
        first = link_name(self._file(pf, "virtfn0"))
        return vf.routing_id - PciAddress.parse(first).routing_id if first is not None else 0

    def _read_number(self, pf: PciAddress, name: str, read: Callable[[str], str] = read_text) -> int:
        if not self.exists(pf):
            raise HostError(f"there is no PCI device {pf}", "see 'lspci -D'")
        path = self._file(pf, name)
        if not exists(path):
            raise HostError(f"PCI device {pf} is not an SR-IOV physical function", f"it has no {name}")
        return int(read(path))
