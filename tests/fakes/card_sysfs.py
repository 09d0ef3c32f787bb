# SPDX-License-Identifier: GPL-2.0-or-later
"""sysfs of a host in memory: what it shows of a fake card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Optional

from tests.fakes.card import Card
from tests.fakes.card_refusals import asked_to
from vfmigrate import locks
from vfmigrate.host.vfio import VfioNodes
from vfmigrate.model.pci import PciAddress, PciId


class CardSysfs:
    """What `vfmigrate.host.sysfs.Sysfs` shows of a card."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.open_groups: set[str] = set()  # VFs that a QEMU holds
        self.numa_nodes: dict[PciAddress, int] = {}
        self.in_containers: set[str] = set()  # VFs whose network device is in another network namespace
        self.driver_identities = {"vfio-pci": 1, str(card.hardware.variant_driver): 2}

    def exists(self, device: PciAddress) -> bool:
        return any(function.address == str(device) for function in self.card.functions())

    def pci_id(self, device: PciAddress) -> Optional[PciId]:
        if not self.exists(device):
            return None
        function = self.card.function(str(device))
        return PciId(function.vendor, function.device)

    def is_infiniband(self, device: PciAddress) -> bool:
        return self.card.hardware.pci_class.startswith("0x0207") and self.exists(device)

    def physfn(self, device: PciAddress) -> Optional[PciAddress]:
        if not self.exists(device):
            return None
        pf = self.card.function(str(device)).pf
        return PciAddress.parse(pf) if pf is not None else None

    def vfs(self, pf: PciAddress) -> list[PciAddress]:
        if not self.exists(pf):
            return []
        count = self.card.function(str(pf)).num_vfs
        return [PciAddress.parse(self.card.vf(index, str(pf))) for index in range(count)]

    def numa_node(self, device: PciAddress) -> Optional[int]:
        return self.numa_nodes.get(device)

    def vf_index(self, vf: PciAddress) -> int:
        index = self.card.function(str(vf)).vf
        assert index is not None
        return index

    def driver(self, device: PciAddress) -> Optional[str]:
        return self.card.function(str(device)).driver

    def is_vfio(self, driver: Optional[str]) -> bool:
        return driver in ("vfio-pci", self.card.hardware.variant_driver)

    def in_use(self, vf: PciAddress) -> bool:
        return vf in self.held([vf])

    def held(self, vfs: Iterable[PciAddress]) -> dict[PciAddress, int]:
        locks.may_take_long("walks through all processes")
        return {vf: 4711 for vf in vfs if str(vf) in self.open_groups}

    def may_be_open(self, vf: PciAddress) -> bool:
        return str(vf) in self.open_groups

    def user_of(self, pid: int) -> str:
        return f"process {pid}"

    def is_pf(self, device: PciAddress) -> bool:
        return bool(self.card.function(str(device)).total_vfs)

    def numvfs(self, pf: PciAddress) -> int:
        return self.card.function(str(pf)).num_vfs

    def totalvfs(self, pf: PciAddress) -> int:
        return self.card.function(str(pf)).total_vfs

    def autoprobe(self, pf: PciAddress) -> bool:
        return self.card.function(str(pf)).autoprobe

    def set_autoprobe(self, pf: PciAddress, on: bool) -> None:
        self.card.autoprobe(str(pf), str(int(on)))

    def announce_change(self, device: PciAddress) -> None:
        locks.may_take_long("writes to sysfs")
        self.card.function(str(device))  # which is there

    def set_numvfs(self, pf: PciAddress, count: int) -> None:
        with asked_to(f"sriov_numvfs of {pf}"):
            self.card.numvfs(str(pf), str(count))

    def vf_addresses(self, pf: PciAddress, count: int) -> list[PciAddress]:
        return [PciAddress.parse(self.card.vf(index, str(pf))) for index in range(count)]

    def vf_modalias(self, pf: PciAddress) -> str:
        assert self.is_pf(pf)
        return "pci:vf"

    def driver_for(self, modalias: str) -> str:
        assert modalias == "pci:vf"
        return self.card.hardware.variant_driver or "vfio-pci"

    def iommu_group(self, device: PciAddress) -> list[PciAddress]:
        group = self.card.function(str(device)).iommu_group
        members = [each.address for each in self.card.functions() if each.iommu_group == group]
        return [PciAddress.parse(address) for address in members] if group is not None else []

    def set_msix_count(self, vf: PciAddress, count: int) -> None:
        if self.msix_count(vf) != count:
            with asked_to(f"MSI-X of {vf}"):
                self.card.msix_count(str(vf), str(count))

    def bus_master(self, device: PciAddress) -> bool:
        locks.may_take_long("reads a device's configuration space")
        return self.card.function(str(device)).bus_master

    def unbind(self, device: PciAddress) -> None:
        driver = self.driver(device)
        if driver is not None:
            with asked_to(f"unbind {device}"):
                self.card.unbind(driver, str(device))
                self.card.driver_override(str(device), "\n")

    def driver_override(self, device: PciAddress) -> Optional[str]:
        locks.may_take_long("reads driver_override")
        return self.card.function(str(device)).driver_override

    def driver_overrides(self, devices: Sequence[PciAddress]) -> dict[PciAddress, Optional[str]]:
        return {device: self.driver_override(device) for device in devices}

    def reset_override(self, device: PciAddress) -> None:
        with asked_to(f"driver_override of {device}"):
            self.card.driver_override(str(device), "\n")

    def bind(self, device: PciAddress, driver: str) -> None:
        current = self.driver(device)
        if current == driver:
            return
        with asked_to(f"bind {device}"):
            self.card.driver_override(str(device), driver)
            if current is not None:
                self.card.unbind(current, str(device))
            self.card.drivers_probe(str(device))
            self.card.driver_override(str(device), "\n")

    def variant_driver(self, device: PciAddress) -> str:
        assert self.physfn(device) is not None
        return self.card.hardware.variant_driver or "vfio-pci"

    def netdevs(self, device: PciAddress) -> list[str]:
        if str(device) in self.in_containers:
            return []
        return [netdev.name for netdev, _ in self.card.netdevs(str(device))]

    def msix_counts(self, devices: Iterable[PciAddress]) -> dict[PciAddress, Optional[int]]:
        return {device: self.msix_count(device) for device in devices}

    def msix_count(self, device: PciAddress) -> int:
        locks.may_take_long("reads a device's configuration space")
        return self.card.function(str(device)).msix

    def vfio_nodes(self, vf: PciAddress) -> VfioNodes:
        return VfioNodes(group=f"vfio/{self.card.function(str(vf)).iommu_group}")

    def driver_identity(self, driver: str) -> Optional[int]:
        return self.driver_identities.get(driver)
