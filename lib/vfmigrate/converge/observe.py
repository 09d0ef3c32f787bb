# SPDX-License-Identifier: GPL-2.0-or-later
"""Observe this host: a VF with everything that belongs to it, and its card.

Changes nothing: what a VF should be is planned in `plan` and applied by `converger`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Optional

from vfmigrate.cards import registry
from vfmigrate.cards.registry import Vendors
from vfmigrate.cards.vendor import Vendor
from vfmigrate.errors import HostError, VfmigrateError
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.devlink_messages import CardVersions, Port
from vfmigrate.host.links import Link, Links
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.vfio import Vfio
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
    #: a process (QEMU) holds the VF through VFIO; not always looked up, see `observe` and `survey`
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


class _Neighbours:
    """The network device and the port of a VF, asked for it alone."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def link(self, ifindex: int) -> Link:
        """A network device. Raises HostError when there is none."""
        return self._host.links.link(ifindex)

    def port(self, name: str) -> Optional[SwitchPort]:
        """The port of the switch of that name. Raises Unreachable when Open vSwitch is down."""
        return self._host.ovs.port(name)


class Surroundings(_Neighbours):
    """The network devices, our ports of the switch and the users of VFs, asked at the first question for all at once.

    Valid for one look at the host: what changes later does not show here.
    """

    def __init__(self, host: Host, pfs: Iterable[PciAddress]) -> None:
        super().__init__(host)
        self._pfs = tuple(pfs)
        self._failure: Optional[VfmigrateError] = None

    @cached_property
    def users(self) -> Container[PciAddress]:
        """The VFs of the PFs that processes use through VFIO. Raises HostError."""
        return self._host.sysfs.held(vf for pf in self._pfs for vf in self._host.sysfs.vfs(pf))

    @cached_property
    def _ports(self) -> Mapping[str, SwitchPort]:
        return {port.name: port for port in self._host.ovs.owned_ports()}

    @cached_property
    def _links(self) -> Mapping[int, Link]:
        return self._host.links.all()

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(link.name for link in self._links.values())

    def ports(self) -> list[SwitchPort]:
        """The ports that have the ID of a claim.

        Raises Unreachable when Open vSwitch is down; it is not asked again then, since each question would wait.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return list(self._ports.values())
        except VfmigrateError as failure:
            self._failure = failure
            raise

    def port(self, name: str) -> Optional[SwitchPort]:
        """The port of that name that has the ID of a claim. Raises as `ports()`."""
        if "_ports" not in self.__dict__:
            self.ports()
        return self._ports.get(name)

    def link(self, ifindex: int) -> Link:
        """A network device. Raises HostError when there is none now."""
        return self._links.get(ifindex) or super().link(ifindex)

    def has_link(self, name: str) -> bool:
        """Whether there is a network device of that name."""
        return name in self._names or self._host.links.find(name) is not None


@dataclass(frozen=True)
class Host:
    """Sysfs, devlink, network devices, Open vSwitch, card vendors and VFIO of this host, in one value."""

    sysfs: Sysfs
    devlink: Devlink
    links: Links
    ovs: OpenVswitch
    vendors: Vendors = field(default_factory=registry.known)
    vfio: Vfio = field(default_factory=Vfio)

    def observe(self, vf: PciAddress) -> VfState:
        """Look at one VF. Raises HostError when it does not exist, Unreachable when Open vSwitch is down."""
        pf = self.sysfs.physfn(vf)
        if pf is None:
            raise HostError(f"there is no VF {vf} on this host", "see sriov_numvfs of its physical function")
        index = self.sysfs.vf_index(vf)
        port = self.devlink.vf_port(pf, index)
        state = self._state(vf, pf, index, False, port, _Neighbours(self))
        if state.vfio and state.migratable is False:
            # Only then does it matter, and looking through all processes is the slowest part.
            state = replace(state, in_use=self.sysfs.in_use(vf))
        return state

    def surroundings(self, pfs: Iterable[PciAddress]) -> Surroundings:
        """What the VFs of these PFs are surveyed with: asks the kernel and Open vSwitch once for all of them."""
        return Surroundings(self, pfs)

    def survey(
        self,
        pf: PciAddress,
        around: Optional[Surroundings] = None,
        *,
        of_guests: Container[PciAddress] = (),
    ) -> list[VfState]:
        """Look at every VF of a PF; asks each of devlink, rtnetlink and Open vSwitch once, however many VFs there are.

        Finds only those ports of the switch that have the ID of a claim. `around` was asked a moment ago, for several
        PFs. Whether a process has one of the VFs `of_guests` is looked up as in `observe`: only where the `migratable`
        flag is off. Where it matters for none, nobody walks through the processes. Raises HostError or Unreachable.
        """
        around = around if around is not None else self.surroundings([pf])
        vfs = self.sysfs.vfs(pf)
        ports = self.devlink.vf_ports(pf, len(vfs))
        states = []
        for index, vf in enumerate(vfs):
            state = self._state(vf, pf, index, False, ports.get(index), around)
            matters = state.vfio and (state.migratable is False or vf not in of_guests)
            states.append(replace(state, in_use=True) if matters and vf in around.users else state)
        return states

    def _state(
        self,
        vf: PciAddress,
        pf: PciAddress,
        index: int,
        in_use: bool,
        port: Optional[Port],
        neighbours: _Neighbours,
    ) -> VfState:
        driver = self.sysfs.driver(vf)
        vfio = self.sysfs.is_vfio(driver)
        if port is None or port.ifindex is None:
            return VfState(vf, pf, index, driver, vfio, in_use)
        link = neighbours.link(port.ifindex)
        return VfState(
            vf,
            pf,
            index,
            driver,
            vfio,
            in_use,
            port_index=port.index,
            hw_addr=port.hw_addr,
            migratable=port.migratable,
            representor=link.name,
            ifindex=link.index,
            link_up=link.up,
            mtu=link.mtu,
            switch_port=neighbours.port(link.name),
        )

    def vendor(self, pf: PciAddress) -> Vendor:
        """The vendor of the card behind a PF."""
        return self.vendors.of(self.sysfs.pci_id(pf))

    def card(self, pf: PciAddress) -> CardVersions:
        """PSID and firmware of the card behind a PF."""
        return self.devlink.info(pf)
