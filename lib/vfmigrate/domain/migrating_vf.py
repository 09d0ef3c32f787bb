# SPDX-License-Identifier: GPL-2.0-or-later
"""The VFs of a running guest: the strategy of each, and what another host must know of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from vfmigrate.domain import domain_xml, pci_xml, xml_parser
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.strategy import Strategy
from vfmigrate.text import quoted


@dataclass(frozen=True)
class MigratingVf:
    """One VF of a guest."""

    mac: Optional[str]
    strategy: Strategy
    #: the pool it is of; None when nothing says so
    pool: Optional[str] = None
    vlan: Optional[int] = None
    #: its PCI address in the guest
    slot: Optional[PciAddress] = None
    #: its host address on the source; None where libvirt does not resolve it
    address: Optional[PciAddress] = None
    #: libvirt binds its driver
    managed: bool = True
    #: its form in the domain: interface, hostdev or network
    form: str = "interface"
    #: its state cannot travel to this destination: it is unplugged and replaced, and keeps its strategy
    falls_back: bool = False

    @property
    def unplugged_first(self) -> bool:
        """Whether another VF replaces it on the destination."""
        return self.falls_back or self.strategy.unplugged_first


def migrating_vfs(xml: str) -> list[MigratingVf]:
    """The VFs of a running guest, in the order of its XML. Raises InputError."""
    found = []
    for interface in domain_xml.read(xml).interfaces:
        if interface.form == "network" and (interface.mark is None or interface.mark.pool is None):
            continue  # of a network that gives no VFs
        mark = interface.mark
        found.append(
            MigratingVf(
                mac=interface.wanted_mac,
                strategy=interface.strategy,
                pool=mark.pool if mark is not None else None,
                vlan=mark.vlan if mark is not None else None,
                slot=_slot(domain_xml.device(xml, interface.position)),
                address=interface.address,
                managed=interface.managed or interface.form == "network",
                form=interface.form,
            )
        )
    return found


def _slot(device: str) -> Optional[PciAddress]:
    """The guest's address in the text of a device."""
    address = xml_parser.parse(device, "the XML of a device").find("address[@type='pci']")
    return pci_xml.read(address.get) if address is not None else None


def check_replug(name: str, vf: MigratingVf, vfs: Iterable[MigratingVf]) -> None:
    """Raises Refused for a VF with strategy replug of which too little is known for another to take its place.

    `vfs` are all VFs of the guest.
    """
    if vf.mac is None or vf.pool is None:
        raise Refused(
            f"a VF of guest '{name}' has strategy replug, but its pool or its MAC is not known",
            "name both in its metadata: virsh edit, or vfmigrate attach",
        )
    if sum(vf.mac == each.mac for each in vfs) > 1:
        raise Refused(
            f"several VFs of guest '{name}' have MAC {vf.mac}, and one has strategy replug, which finds its VF by MAC",
            f"give each its own MAC: virsh edit {quoted(name)}",
        )
    if vf.slot is None or vf.slot.bus == 0:
        raise Refused(
            f"the VF with MAC {vf.mac} of guest '{name}' is at a PCI address where nothing can be unplugged",
            "put it on a pcie-root-port: virsh edit, remove its <address>, and restart the guest",
        )
