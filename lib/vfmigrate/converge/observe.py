# SPDX-License-Identifier: GPL-2.0-or-later
"""Observe this host: a VF with everything that belongs to it, and its card.

Changes nothing: what a VF should be is planned in `plan` and applied by `converger`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Callable, Optional

from vfmigrate.cards import registry
from vfmigrate.cards.registry import Vendors
from vfmigrate.cards.vendor import Vendor
from vfmigrate.errors import HostError
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.devlink_messages import CardVersions, Port
from vfmigrate.host.links import Links
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import OpenVswitch, SwitchPort


@dataclass(frozen=True)
class VfState:
    """One VF as it is now."""

    vf: PciAddress
    pf: PciAddress
    index: int
    driver: Optional[str]
    #: the driver is vfio-pci or a variant driver
    vfio: bool
    #: a process (QEMU) holds the VF through VFIO; `observe` looks only where the `migratable` flag is off
    in_use: bool
    #: devlink port of the VF; None while the PF is not in switchdev mode
    port_index: Optional[int] = None
    hw_addr: Optional[str] = None
    #: None where the card or its mode knows no such flag
    migratable: Optional[bool] = None
    representor: Optional[str] = None
    ifindex: Optional[int] = None
    link_up: bool = False
    mtu: Optional[int] = None
    switch_port: Optional[SwitchPort] = None
    #: driver_override; looked at only where it is to be reset
    override: Optional[str] = None


@dataclass(frozen=True)
class Host:
    """Sysfs, devlink, network devices, Open vSwitch and card vendors of this host, in one value."""

    sysfs: Sysfs
    devlink: Devlink
    links: Links
    ovs: OpenVswitch
    vendors: Vendors = field(default_factory=registry.known)

    def observe(self, vf: PciAddress) -> VfState:
        """Look at one VF. Raises HostError when it does not exist, Unreachable when Open vSwitch is down."""
        pf = self.sysfs.physfn(vf)
        if pf is None:
            raise HostError(f"there is no VF {vf} on this host", "see sriov_numvfs of its physical function")
        index = self.sysfs.vf_index(vf)
        port = self.devlink.vf_port(pf, index)
        state = self._state(vf, pf, index, False, port, self.ovs.port)
        if state.vfio and state.migratable is False:
            # Only then does it matter, and looking through all processes is the slowest part.
            state = replace(state, in_use=self.sysfs.in_use(vf))
        return state

    def survey(self, pf: PciAddress) -> list[VfState]:
        """Look at every VF of a PF with one request to devlink and one to Open vSwitch.

        Finds only those ports of the switch that have the ID of a claim.
        """
        vfs = self.sysfs.vfs(pf)
        ports = self.devlink.vf_ports(pf, len(vfs))
        owned = {port.name: port for port in self.ovs.owned_ports()}
        users = self.sysfs.users(pf)
        return [
            self._state(vf, pf, index, vf in users, ports.get(index), owned.get)
            for index, vf in enumerate(vfs)
        ]

    def _state(
        self,
        vf: PciAddress,
        pf: PciAddress,
        index: int,
        in_use: bool,
        port: Optional[Port],
        switch_port: Callable[[str], Optional[SwitchPort]],
    ) -> VfState:
        driver = self.sysfs.driver(vf)
        state = VfState(vf, pf, index, driver, self.sysfs.is_vfio(driver), in_use)
        if port is None or port.ifindex is None:
            return state
        link = self.links.link(port.ifindex)
        return replace(
            state,
            port_index=port.index,
            hw_addr=port.hw_addr,
            migratable=port.migratable,
            representor=link.name,
            ifindex=link.index,
            link_up=link.up,
            mtu=link.mtu,
            switch_port=switch_port(link.name),
        )

    def vendor(self, pf: PciAddress) -> Vendor:
        """The vendor of the card behind a PF."""
        return self.vendors.of(self.sysfs.pci_id(pf))

    def card(self, pf: PciAddress) -> CardVersions:
        """PSID and firmware of the card behind a PF."""
        return self.devlink.info(pf)
