# SPDX-License-Identifier: GPL-2.0-or-later
"""A host in memory: sysfs and devlink over the fake card, and a switch and links that only store what they get.

For tests of the code that uses these modules. The real modules are tested elsewhere, against the kernel's behaviour and
real servers; these fakes have the same interfaces.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Optional, cast

from tests.fakes.card import Card
from tests.fakes.hardware import DevlinkPort
from vfmigrate import locks
from vfmigrate.cards.mlx5 import Mlx5
from vfmigrate.cards.mlx5_mstconfig import FirmwareSettings
from vfmigrate.cards.registry import Vendors
from vfmigrate.converge.observe import Host
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.host.devlink import Devlink, NoDevlinkError
from vfmigrate.host.devlink_messages import CardVersions, Port, local_vf_ports
from vfmigrate.host.links import Link, Links, Traffic
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.vfio import Vfio, VfioNodes
from vfmigrate.model.pci import PciAddress, PciId
from vfmigrate.model.vfio import MigrationSupport
from vfmigrate.ovs.openvswitch import OWNER_KEY, OpenVswitch, PortSettings, SwitchPort


@contextmanager
def _kernel(what: str) -> Iterator[None]:
    locks.may_take_long("asks the kernel for a change")
    try:
        yield
    except OSError as error:
        text = error.strerror or os.strerror(error.errno or 0)
        kind = NoDevlinkError if error.errno == errno.ENODEV else HostError
        raise kind(f"{what}: {text}") from None


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
        with _kernel(f"sriov_numvfs of {pf}"):
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
            with _kernel(f"MSI-X of {vf}"):
                self.card.msix_count(str(vf), str(count))

    def bus_master(self, device: PciAddress) -> bool:
        locks.may_take_long("reads a device's configuration space")
        return self.card.function(str(device)).bus_master

    def unbind(self, device: PciAddress) -> None:
        driver = self.driver(device)
        if driver is not None:
            with _kernel(f"unbind {device}"):
                self.card.unbind(driver, str(device))
                self.card.driver_override(str(device), "\n")

    def driver_override(self, device: PciAddress) -> Optional[str]:
        locks.may_take_long("reads driver_override")
        return self.card.function(str(device)).driver_override

    def driver_overrides(self, devices: Sequence[PciAddress]) -> dict[PciAddress, Optional[str]]:
        return {device: self.driver_override(device) for device in devices}

    def reset_override(self, device: PciAddress) -> None:
        with _kernel(f"driver_override of {device}"):
            self.card.driver_override(str(device), "\n")

    def bind(self, device: PciAddress, driver: str) -> None:
        current = self.driver(device)
        if current == driver:
            return
        with _kernel(f"bind {device}"):
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


class CardVfio:
    """What `vfmigrate.host.vfio.Vfio` shows of a card; `asked` are the VFs that were opened."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.asked: list[PciAddress] = []
        self.refusal: Optional[HostError] = None

    def ask(self, vf: PciAddress, nodes: VfioNodes, driver: str) -> MigrationSupport:
        assert nodes.group == f"vfio/{self._card.function(str(vf)).iommu_group}"
        assert self._card.function(str(vf)).driver == driver
        self.asked.append(vf)
        if self.refusal is not None:
            raise self.refusal
        flags, logs, size = self._card.vfio_answer(str(vf))
        able, p2p, pre_copy = (bool(flags & bit) for bit in (1, 2, 4))
        return MigrationSupport(driver, able, p2p, pre_copy, logs, size if able else None)


class CardDevlink:
    """What `vfmigrate.host.devlink.Devlink` shows of a card."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def eswitch_mode(self, pf: PciAddress) -> str:
        with _kernel(f"devlink: cannot read the eswitch mode of PF {pf}"):
            return self.card.eswitch_mode(str(pf))

    def set_eswitch_mode(self, pf: PciAddress, mode: str) -> None:
        with _kernel(f"devlink: cannot set the eswitch mode to {mode} of PF {pf}"):
            self.card.set_eswitch_mode(str(pf), mode)

    def ports(self, pf: PciAddress) -> list[Port]:
        locks.may_take_long("asks devlink")
        with _kernel(f"devlink: ports of {pf}"):
            return [_port(port) for port in self.card.ports(str(pf))]

    def vf_ports(self, pf: PciAddress, _count: Optional[int] = None) -> dict[int, Port]:
        return local_vf_ports(pf, self.ports(pf))

    def vf_port(self, pf: PciAddress, vf: int) -> Optional[Port]:
        return self.vf_ports(pf).get(vf)

    def set_port_function(
        self,
        pf: PciAddress,
        port_index: int,
        *,
        hw_addr: Optional[str] = None,
        migratable: Optional[bool] = None,
    ) -> None:
        with _kernel(f"port function {pf}/{port_index}"):
            self.card.set_port_function(str(pf), port_index, hw_addr=hw_addr, migratable=migratable)

    def info(self, pf: PciAddress) -> CardVersions:
        with _kernel(f"devlink: cannot read the card's versions of PF {pf}"):
            told = self.card.info(str(pf))
        return CardVersions(self.card.hardware.host_driver, told["fixed"], told["running"], told["stored"])


def _port(port: DevlinkPort) -> Port:
    name, ifindex = (port.netdev.name, port.netdev.ifindex) if port.netdev else (None, None)
    return Port(
        port.index,
        port.flavour,
        port.vf,
        port.pf,
        port.controller,
        port.external,
        ifindex,
        name,
        port.hw_addr,
        port.migratable,
    )


class MemoryLinks:
    """The network devices of a card, which only store what they get; down at first."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.links: dict[int, Link] = {}
        self.counted: dict[int, Traffic] = {}
        self.ip_addresses: dict[int, list[str]] = {}
        self.ip_routes: dict[int, list[str]] = {}

    def _look(self) -> dict[int, Link]:
        locks.may_take_long("sends a netlink request")
        for function in self._card.functions():
            for netdev, _ in self._card.netdevs(function.address):
                new = Link(netdev.ifindex, netdev.name, False, 1500, "02:00:00:00:00:01")
                self.links.setdefault(netdev.ifindex, new)
        return self.links

    def all(self) -> dict[int, Link]:
        return dict(self._look())

    def link(self, ifindex: int) -> Link:
        return self._look()[ifindex]

    def vlan_devices(self, ifindex: int) -> list[Link]:
        return [link for link in self._look().values() if link.lower == ifindex]

    def find(self, name: str) -> Optional[Link]:
        return next((link for link in self._look().values() if link.name == name), None)

    def addresses(self) -> dict[int, list[str]]:
        locks.may_take_long("sends a netlink request")
        return self.ip_addresses

    def traffic(self, ifindex: int) -> Traffic:
        return self.counted.get(self.link(ifindex).index, Traffic(0, 0))

    def routes(self, ifindex: int) -> list[str]:
        locks.may_take_long("sends a netlink request")
        return self.ip_routes.get(ifindex, [])

    def set_up(self, ifindex: int, up: bool = True) -> None:
        self.links[ifindex] = replace(self.link(ifindex), up=up)

    def set_mtu(self, ifindex: int, mtu: int) -> None:
        self.links[ifindex] = replace(self.link(ifindex), mtu=mtu)


class MemorySwitch:
    """What `vfmigrate.ovs.openvswitch.OpenVswitch` shows of a switch that has ports and forwards nothing."""

    def __init__(self, *bridges: str) -> None:
        self.bridges = set(bridges)
        self.datapaths: dict[str, str] = {}
        self.ports: dict[str, SwitchPort] = {}
        self.frames: list[tuple[str, int, bytes]] = []
        self.sent = threading.Event()
        self.down = False
        self.other_config: dict[str, str] = {}
        self.uplinks: dict[str, str] = {}
        #: the MAC tables of the bridges: VLANs by MAC
        self.seen: dict[str, set[int]] = {}

    def seen_in(self, bridge: str, macs: Iterable[str]) -> dict[str, frozenset[int]]:
        locks.may_take_long("asks ovs-vswitchd for a MAC table")
        if self.down or bridge not in self.bridges:
            raise Unreachable("ovs-vswitchd does not run")
        return {mac: frozenset(self.seen.get(mac, ())) for mac in macs}

    def settings(self) -> dict[str, str]:
        self._reach()
        return dict(self.other_config)

    def configure(self, wanted: Mapping[str, str]) -> None:
        self._reach()
        self.other_config.update(wanted)

    def add_bridge(self, name: str) -> None:
        self._reach()
        self.bridges.add(name)

    def bridge_of(self, netdev: str) -> Optional[str]:
        self._reach()
        return self.uplinks.get(netdev)

    def add_uplink(self, name: str, netdev: str) -> None:
        self._reach()
        assert name in self.bridges
        self.uplinks[netdev] = name

    def _reach(self) -> None:
        locks.may_take_long("asks Open vSwitch's database")
        if self.down:
            raise Unreachable("ovsdb-server does not answer")

    def datapath(self, name: str) -> Optional[str]:
        self._reach()
        return self.datapaths.get(name, "system") if name in self.bridges else None

    def bridge_exists(self, name: str) -> bool:
        self._reach()
        return name in self.bridges

    def port(self, name: str) -> Optional[SwitchPort]:
        self._reach()
        return self.ports.get(name)

    def owned_ports(self) -> list[SwitchPort]:
        self._reach()
        return [port for port in self.ports.values() if port.owner is not None]

    def plug(self, bridge: str, netdev: str, owner: str, settings: PortSettings) -> SwitchPort:
        self._reach()
        if bridge not in self.bridges:
            raise HostError(f"Open vSwitch has no bridge '{bridge}'")
        present = self.ports.get(netdev)
        if present is not None and present.owner != owner:
            raise HostError(f"port {netdev} of bridge {present.bridge} belongs to '{present.owner}'")
        ids = {**settings.external_ids, OWNER_KEY: owner}
        number = len(self.ports) + 1
        port = SwitchPort(netdev, bridge, settings.tag, settings.trunks, ids, owner, number, None)
        self.ports[netdev] = port
        return port

    def unplug(self, netdev: str, owner: str) -> bool:
        self._reach()
        port = self.ports.get(netdev)
        if port is None or port.owner != owner:
            return False
        del self.ports[netdev]
        return True

    def packet_out(self, bridge: str, ofport: int, frame: bytes) -> None:
        self._reach()
        self.frames.append((bridge, ofport, frame))
        self.sent.set()


#: the vendors of real cards, without the tools, since there is no card
NO_TOOL = Vendors([Mlx5(FirmwareSettings(tools=()))])


class MemoryHost:
    """A host with one card in memory: VFs created, in switchdev mode, and the bridge of its pool."""

    def __init__(
        self,
        *,
        vfs: int = 4,
        bridge: str = "br-data",
        card: Optional[Card] = None,
        vendors: Vendors = NO_TOOL,
    ) -> None:
        self.card = card or Card(("0000:01:00.0",))
        self.pf = PciAddress.parse(self.card.pfs[0])
        self.card.autoprobe(str(self.pf), "0")
        self.card.numvfs(str(self.pf), str(vfs))
        self.card.set_eswitch_mode(str(self.pf), "switchdev")
        self.sysfs = CardSysfs(self.card)
        self.devlink = CardDevlink(self.card)
        self.links = MemoryLinks(self.card)
        self.vfio = CardVfio(self.card)
        self.ovs = MemorySwitch(bridge)
        self.vfs = self.sysfs.vfs(self.pf)
        self.host = Host(
            cast(Sysfs, self.sysfs),
            cast(Devlink, self.devlink),
            cast(Links, self.links),
            cast(OpenVswitch, self.ovs),
            vendors,
            cast(Vfio, self.vfio),
        )
