# SPDX-License-Identifier: GPL-2.0-or-later
"""The values of a fake card: its hardware, and snapshots of functions and ports."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Optional, Protocol


@dataclass(frozen=True)
class Hardware:
    """Properties of chip, firmware and kernel; the default is a ConnectX-7."""

    vendor: int = 0x15B3
    pf_device: int = 0x1021
    vf_device: int = 0x101E
    subsystem_device: int = 0x0041
    pci_class: str = "0x020000"
    host_driver: str = "mlx5_core"
    variant_driver: Optional[str] = "mlx5_vfio_pci"  # None: a kernel built without it
    total_vfs: int = 8
    vf_msix: int = 11
    # vectors that the host can distribute to VFs; 0: the PF's driver does not support it
    vf_msix_pool: int = 512
    psid: str = "MT_0000000892"
    firmware: str = "28.42.1000"
    stored_firmware: Optional[str] = None  # None: the one that runs
    migration: bool = True
    vhca_management: bool = True
    # False: the host side of a DPU, whose own processors manage the eswitch
    eswitch_manager: bool = True
    iommu: bool = True
    # what the variant driver answers through VFIO for a VF that can migrate: the flags of linux/vfio.h, and the rest
    migration_flags: int = 7
    dma_logging: bool = True
    state_size: int = 4 << 20

    def modalias(self, function: Function) -> str:
        """Show a function's modalias."""
        return (
            f"pci:v{function.vendor:08X}d{function.device:08X}"
            f"sv{self.vendor:08X}sd{self.subsystem_device:08X}bc{self.pci_class[2:4]}sc{self.pci_class[4:6]}i00"
        )

    def modules_alias(self) -> str:
        """Show what depmod writes to `modules.alias` about the drivers of this card."""
        vf = f"v{self.vendor:08X}d{self.vf_device:08X}sv*sd*bc*sc*i*"
        lines = [f"alias pci:{vf} {self.host_driver}", "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci"]
        if self.variant_driver:
            lines.append(f"alias vfio_pci:{vf} {self.variant_driver}")
        return "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class Netdev:
    """A network device as a lookup returns it."""

    ifindex: int
    name: str


class Netdevs(Protocol):
    """Finds the network devices of a PF at each lookup; None while there is none."""

    def uplink(self, pf: str) -> Optional[Netdev]:
        """Find the PF's own network device."""

    def representor(self, pf: str, vf: int) -> Optional[Netdev]:
        """Find the representor of the PF's VF number `vf`."""


class NumberedNetdevs:
    """Network devices that are only names: stable indexes from 100 on, names as udev gives them."""

    def uplink(self, pf: str) -> Netdev:
        """Name the PF's own network device after its address."""
        return Netdev(100 + 32 * int(pf[-1], 16), f"{netdev_name(pf)}np{pf[-1]}")

    def representor(self, pf: str, vf: int) -> Netdev:
        """Name a representor after PF and VF number."""
        return Netdev(101 + 32 * int(pf[-1], 16) + vf, f"{netdev_name(pf)}npf{pf[-1]}vf{vf}")


@dataclass(frozen=True)
class Function:
    """One PCI function of the card at one moment."""

    address: str
    vendor: int
    device: int
    msix: int  # size of its MSI-X table
    iommu_group: Optional[int] = None
    driver: Optional[str] = None
    driver_override: Optional[str] = None
    pf: Optional[str] = None  # of a VF only
    vf: Optional[int] = None
    total_vfs: int = 0  # the rest of a PF only
    num_vfs: int = 0
    autoprobe: bool = True
    # The flag that the variant driver read when it bound; later changes have no effect on it.
    migratable_at_bind: Optional[bool] = None
    # What the function's driver (for a VF under VFIO, the guest's) last wrote to its command register.
    bus_master: bool = False

    def config_space(self) -> bytes:
        """Show the first 256 bytes of configuration space: PCI Express with reset (FLR), and MSI-X."""
        space = bytearray(256)
        # A VF's own ID registers read as ones (SR-IOV specification 3.4.1); sysfs has the real IDs.
        ids = (0xFFFF, 0xFFFF) if self.pf else (self.vendor, self.device)
        command = 0x0006 if self.bus_master else 0x0002
        struct.pack_into("<HHHHI", space, 0, *ids, command, 0x0010, 0x02000000)
        space[0x34] = 0x60
        struct.pack_into("<BBHI", space, 0x60, 0x10, 0x9C, 0x0002, 1 << 28)
        struct.pack_into("<BBHII", space, 0x9C, 0x11, 0, self.msix - 1, 0x2000, 0x3000)
        return bytes(space)


@dataclass(frozen=True)
class DevlinkPort:
    """One devlink port at one moment; `hw_addr` and `migratable` are its port function's."""

    index: int
    flavour: str  # physical or pcivf
    pf: int
    vf: Optional[int]
    netdev: Optional[Netdev]
    hw_addr: Optional[str] = None
    migratable: Optional[bool] = None  # None: the attribute is not offered
    external: bool = False
    controller: int = 0

    @property
    def phys_port_name(self) -> str:
        """Its name as devlink_port_phys_port_name_get() makes it."""
        return f"p{self.pf}" if self.vf is None else f"pf{self.pf}vf{self.vf}"


def netdev_name(address: str) -> str:
    """Name a network device by its place, as systemd.net-naming-scheme(7) does for bus, slot and function."""
    _, bus, slot_function = address.split(":")
    slot, function = slot_function.split(".")
    return f"enp{int(bus, 16)}s{int(slot, 16)}f{function}"
