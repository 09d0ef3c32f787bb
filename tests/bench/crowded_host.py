# SPDX-License-Identifier: GPL-2.0-or-later
"""A host with many VFs, for measurements: the parts of the daemon, connected as in the daemon.

sysfs is a directory in memory, devlink a fake in its own process (which is slower than a kernel), rtnetlink the
kernel's with a device for each representor, Open vSwitch's database a real one with all the ports. There is no
ovs-vswitchd, whose time grows with its ports and is not ours.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from tests.fakes import sysfs_tree
from tests.fakes.card import SWITCHDEV, Card
from tests.fakes.devlink_server import DevlinkServer
from tests.fakes.hardware import Hardware, Netdev
from tests.integration.ovs_server import OvsServer, in_network
from vfmigrate.claims.claim_store import PLUGGED, Claim, ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.converger import Converger
from vfmigrate.converge.observe import Host
from vfmigrate.converge.plan import wanted
from vfmigrate.converge.services import HostServices
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.links import Links
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs import ovsdb
from vfmigrate.ovs.openvswitch import OWNER_KEY, OpenVswitch
from vfmigrate.ovs.switchport import MARK

BRIDGE = "br-data"
POOL = "data"
#: as on a hypervisor with a hundred guests
PROCESSES = 300
_MEMORY = Path("/dev/shm")
_BATCH = 500
_FIRST_IFINDEX = 1000
#: of the MTU that the representors have, so that none has to be changed
UPLINK = Netdev(999, "uplink")


@dataclass(frozen=True)
class CrowdedHost:
    """The host, and what its VFs are called."""

    services: HostServices
    switch: OvsServer
    vfs: Sequence[PciAddress]
    representors: Sequence[str]

    def give_away(self, numbers: Sequence[int]) -> None:
        """Have the VFs of these numbers belong to running guests, ports included."""
        pool = self.services.config.pools[POOL]
        claims = [self.services.store.put(_claim(self.vfs[number], number)) for number in numbers]
        with closing(ovsdb.Database(self.switch.remote, timeout=60)) as database:
            for begin in range(0, len(claims), _BATCH):
                batch = zip(claims[begin : begin + _BATCH], numbers[begin : begin + _BATCH])
                database.transact(*_ports([(self.representors[each], claim) for claim, each in batch], pool))


class _Representors:
    """A network device for each VF, by the order of PFs and VFs."""

    def __init__(self, pfs: Sequence[str], vfs: int) -> None:
        self._first = {pf: position * vfs for position, pf in enumerate(pfs)}

    def uplink(self, pf: str) -> Netdev:  # noqa: ARG002 - all have the same
        """The PF's own."""
        return UPLINK

    def representor(self, pf: str, vf: int) -> Netdev:
        """A VF's."""
        number = self._first[pf] + vf
        return Netdev(_FIRST_IFINDEX + number, f"rep{number}")


def _claim(vf: PciAddress, number: int) -> Claim:
    uuid = f"22222222-2222-4222-8222-{number:012d}"
    mac = f"52:54:00:{number >> 16:02x}:{number >> 8 & 0xFF:02x}:{number & 0xFF:02x}"
    return Claim(vf, POOL, uuid, f"guest{number}", PLUGGED, 0.0, mac=mac, vlan=42)


def _ports(claimed: Sequence[tuple[str, Claim]], pool: Pool) -> Iterator[ovsdb.Operation]:
    """Add a port for each representor that belongs to a claim."""
    for number, (name, claim) in enumerate(claimed):
        port = wanted(claim, pool).port
        assert port is not None
        ids = {**port.settings.external_ids, **MARK, OWNER_KEY: claim.id}
        columns: dict[str, Any] = {"name": name, "external_ids": ovsdb.to_map(ids), "ofport": number + 1}
        yield {"op": "insert", "table": "Interface", "uuid-name": f"interface{number}", "row": columns}
        columns = {
            "name": name,
            "tag": port.settings.tag,
            "interfaces": ["named-uuid", f"interface{number}"],
        }
        yield {"op": "insert", "table": "Port", "uuid-name": f"port{number}", "row": columns}
    ports = ovsdb.to_set(["named-uuid", f"port{number}"] for number in range(len(claimed)))
    yield ovsdb.mutate("Bridge", ovsdb.named(BRIDGE), ["ports", "insert", ports])


@contextmanager
def crowded_host(pfs: int, vfs: int, *, claimed: bool = False, bound: bool = False) -> Iterator[CrowdedHost]:
    """A host with `vfs` VFs on each of its `pfs` PFs; all belong to guests if `claimed`, else they are free.

    Those of guests are bound to VFIO drivers, free ones if `bound`. The processes that could have a VF are many, each
    with the open files of this one.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vfmigrate-bench-", dir=_MEMORY)))
        for folder in ("ovs", "modules", "dev/vfio", "proc"):
            (place / folder).mkdir(parents=True)
        for number in range(PROCESSES):
            (place / "proc" / str(1000 + number)).symlink_to(f"/proc/{os.getpid()}")
        addresses = [f"0000:01:{function >> 3:02x}.{function & 7}" for function in range(pfs)]
        representors = [f"rep{number}" for number in range(pfs * vfs)]
        card = _card(addresses, vfs, bound=claimed or bound)
        sysfs_tree.make(card, place / "sys")
        (place / "modules/modules.alias").write_text(card.hardware.modules_alias())
        switch = stack.enter_context(OvsServer(place / "ovs", dummy=True))
        switch.add_bridge(BRIDGE)
        switch.stop_switch()
        _make_links(switch, representors, up=claimed)
        store = ClaimStore(place / "claims")
        stack.callback(store.close)
        ovs = OpenVswitch(switch.remote, timeout=60)
        stack.callback(ovs.close)
        links = in_network(switch.namespace, Links)
        stack.callback(links.close)
        devlink = Devlink(connect=stack.enter_context(devlink_clients(card, place / "devlink")))
        stack.callback(devlink.close)
        if bound:
            for function in card.functions():
                (place / f"dev/vfio/{function.iommu_group}").touch()
                (place / "sys" / sysfs_tree.device_path(function.address) / "enable").write_text("0\n")
        sysfs = Sysfs(place / "sys", modules=place / "modules", dev=place / "dev", proc=place / "proc")
        host = Host(sysfs, devlink, links, ovs)
        pool = Pool(POOL, tuple(map(PciAddress.parse, addresses)), BRIDGE, vfs=vfs, vlans=frozenset({42}))
        config = Config({POOL: pool})
        log = stack.enter_context(_journal(place / "journal"))
        services = HostServices(config, host, store, Converger(host, config, store), log)
        found = [PciAddress.parse(card.vf(index, pf)) for pf in addresses for index in range(vfs)]
        crowded = CrowdedHost(services, switch, found, representors)
        if claimed:
            crowded.give_away(range(len(found)))
        yield crowded


def _card(addresses: Sequence[str], vfs: int, *, bound: bool) -> Card:
    hardware = Hardware(total_vfs=vfs)
    card = Card(addresses, hardware=hardware, netdevs=_Representors(addresses, vfs))
    for pf in addresses:
        card.autoprobe(pf, "0")
        card.set_eswitch_mode(pf, SWITCHDEV)
        card.numvfs(pf, str(vfs))
        ports = [port.index for port in card.ports(pf) if port.vf is not None]
        for index, port in enumerate(ports):
            card.set_port_function(pf, port, migratable=True)
            if bound:
                vf = card.vf(index, pf)
                card.driver_override(vf, str(hardware.variant_driver))
                card.drivers_probe(vf)
                card.driver_override(vf, "\n")
    return card


def _make_links(switch: OvsServer, names: Sequence[str], *, up: bool) -> None:
    state = " up" if up else ""
    lines = [f"link add {UPLINK.name} index {UPLINK.ifindex} up type bridge\n"]
    lines += [
        f"link add {name} index {_FIRST_IFINDEX + number}{state} type bridge\n"
        for number, name in enumerate(names)
    ]
    switch.namespace.run("ip", "-batch", "-", stdin="".join(lines))


@contextmanager
def _journal(path: Path) -> Iterator[Journal]:
    """A log whose entries are read and forgotten."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reader:
        reader.bind(os.fspath(path))
        log = Journal(path)
        threading.Thread(target=_read_all, args=(reader,), daemon=True).start()
        try:
            yield log
        finally:
            log.close()
            reader.shutdown(socket.SHUT_RDWR)


def _read_all(reader: socket.socket) -> None:
    while reader.recv(1 << 16):
        pass


@contextmanager
def devlink_clients(card: Card, path: Path) -> Iterator[Callable[[], socket.socket]]:
    """What makes sockets to a devlink that answers for the card in its present state."""
    processes = multiprocessing.get_context("fork")
    ready = processes.Event()

    def serve() -> None:
        with DevlinkServer(card, path):
            ready.set()
            signal.pause()

    server = processes.Process(target=serve, daemon=True)
    server.start()
    try:
        ready.wait()
        yield lambda: _connected(path)
    finally:
        server.terminate()
        server.join()


def _connected(path: Path) -> socket.socket:
    """A socket to a fake kernel that listens at `path`."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(os.fspath(path))
    return client
