# SPDX-License-Identifier: GPL-2.0-or-later
"""Domain XML of the guests on namespace hosts: machines without disk or kernel, which migrate like others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from tests.integration import roots
from vfmigrate.model.pci import PciAddress

URI = "urn:vfmigrate:domain:1"
EMULATOR = "/usr/local/bin/emulator"


@dataclass(frozen=True)
class Vf:
    """One VF of a guest: its address on the host where the guest starts, and its metadata."""

    address: str
    mac: str
    pool: Optional[str] = "data"
    vlan: Optional[int] = None
    form: str = "interface"
    managed: bool = True
    strategy: Optional[str] = None
    #: whether the guest has it, or only its metadata names it
    plugged: bool = True
    #: the libvirt network of the form `network`, unless it is named like the pool
    network: Optional[str] = None

    def device(self) -> str:
        """The device in its `form`.

        `interface` is <interface type='hostdev'>, `hostdev` a plain <hostdev>, `network` an interface of the
        hostdev network of the pool, from which libvirt chooses the VF.
        """
        if not self.plugged:
            return ""
        if self.form == "network":
            network = self.network or self.pool
            return f"<interface type='network'><mac address='{self.mac}'/><source network='{network}'/></interface>"
        pci = PciAddress.parse(self.address)
        managed = "yes" if self.managed else "no"
        source = (
            f"<source><address type='pci' domain='{pci.domain:#06x}' bus='{pci.bus:#04x}'"
            f" slot='{pci.slot:#04x}' function='{pci.function:#x}'/></source>"
        )
        if self.form == "hostdev":
            plain = source.replace(" type='pci'", "")
            return f"<hostdev mode='subsystem' type='pci' managed='{managed}'>{plain}</hostdev>"
        return (
            f"<interface type='hostdev' managed='{managed}'><mac address='{self.mac}'/>{source}</interface>"
        )

    def mark(self) -> str:
        """Its element in the metadata; only a plain <hostdev> needs to be found by its address."""
        address = self.address if self.form == "hostdev" else None
        words = {"mac": self.mac, "address": address, "pool": self.pool, "vlan": self.vlan}
        words["strategy"] = self.strategy
        told = " ".join(f"{name}='{value}'" for name, value in words.items() if value is not None)
        return f"<vfmigrate:vf {told}/>"


def hostdev_network(name: str, addresses: Sequence[str]) -> str:
    """A libvirt hostdev network of these VFs."""
    vfs = (PciAddress.parse(address) for address in addresses)
    listed = "".join(
        f"<address type='pci' domain='{vf.domain:#06x}' bus='{vf.bus:#04x}' slot='{vf.slot:#04x}'"
        f" function='{vf.function:#x}'/>"
        for vf in vfs
    )
    return f"<network><name>{name}</name><forward mode='hostdev' managed='yes'>{listed}</forward></network>"


@dataclass(frozen=True)
class Guest:
    """A guest by its name and its VFs; `extra` is XML of further devices."""

    name: str
    vfs: Sequence[Vf] = ()
    number: int = 1
    #: PCI ports into which a device can be plugged while it runs
    free_ports: int = 0
    #: VFs that the metadata names and that are plugged in later
    marked: Sequence[Vf] = ()
    extra: str = ""
    machine: str = roots.machine(*roots.releases())

    @property
    def uuid(self) -> str:
        """Its UUID, from its number."""
        return f"11111111-1111-4111-8111-{self.number:012d}"

    def xml(self) -> str:
        """Its domain XML.

        No guest code runs: the firmware finds nothing to boot and halts. The limit on memory keeps libvirt from raising
        QEMU's limit of locked memory for VFIO; not every root may raise it, and nothing is locked here.
        """
        marks = "".join(vf.mark() for vf in (*self.vfs, *self.marked))
        metadata = f"<metadata><vfmigrate:vfs xmlns:vfmigrate='{URI}'>{marks}</vfmigrate:vfs></metadata>"
        return f"""<domain type='qemu'>
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  {metadata if marks else ""}
  <memory unit='MiB'>32</memory>
  <memtune><hard_limit unit='MiB'>1</hard_limit></memtune>
  <os><type arch='x86_64' machine='{self.machine}'>hvm</type></os>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <features><acpi/></features>
  <devices>
    <emulator>{EMULATOR}</emulator>
    <controller type='usb' model='none'/>
    {self._ports()}
    {"".join(vf.device() for vf in self.vfs)}
    {self.extra}
    <memballoon model='none'/>
  </devices>
</domain>
"""

    def _ports(self) -> str:
        """PCI ports for its VFs and those plugged in later; libvirt itself adds no free ports."""
        if not self.free_ports:
            return ""
        port = "<controller type='pci' model='pcie-root-port'/>"
        return "<controller type='pci' index='0' model='pcie-root'/>" + port * (
            self.free_ports + len(self.vfs)
        )
