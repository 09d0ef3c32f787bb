# SPDX-License-Identifier: GPL-2.0-or-later
"""The status of a host whose 127 VFs all belong to guests, from a daemon that has answered the same request before.

The parts are connected as in the daemon. sysfs is a directory, devlink a fake in its own process (which is slower than
a kernel), rtnetlink the kernel's, and Open vSwitch's database a real one with all the ports. python-ovs is the
distribution's, as on a hypervisor: it parses JSON in C, PyPI's build in Python.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Callable, Optional, cast

from tests.bench.measure import Result, Turn, medians
from tests.fakes import sysfs_tree
from tests.fakes.card import SWITCHDEV, Card
from tests.fakes.devlink_server import DevlinkServer
from tests.fakes.hardware import Hardware, Netdev
from tests.integration.ovs_server import OvsServer
from vfmigrate.claims.claim_store import PLUGGED, Claim, ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.converger import Converger
from vfmigrate.converge.observe import Host
from vfmigrate.converge.services import HostServices
from vfmigrate.daemon.observation import Observer
from vfmigrate.daemon.status import Status
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.links import Links
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.udev import Udev
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.offload import HardwareOffload
from vfmigrate.ovs.openvswitch import OWNER_KEY, OpenVswitch
from vfmigrate.provision.networks import Networks
from vfmigrate.provision.provisioner import Provisioner
from vfmigrate.reservations.migration_slots import MigrationSlots

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor

VFS = 127
ROUNDS = 20
AIM_MS = 100.0
PF = "0000:e1:00.0"
BRIDGE = "br-data"


class Loopbacks:
    """Uses the loopback device for every network device of the card, because it always exists."""

    def uplink(self, pf: str) -> Optional[Netdev]:  # noqa: ARG002
        """The PF's own."""
        return Netdev(1, "lo")

    def representor(self, pf: str, vf: int) -> Optional[Netdev]:  # noqa: ARG002
        """A VF's."""
        return Netdev(1, "lo")


# python3-openvswitch's (tests/packages.txt)
DISTRIBUTIONS = Path("/usr/lib/python3/dist-packages")


def results() -> list[Result]:
    """Measure, in a process that imports the distribution's python-ovs."""
    with tempfile.TemporaryDirectory(prefix="vfmigrate-bench-") as name:
        (Path(name) / "ovs").symlink_to(DISTRIBUTIONS / "ovs")
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            env={**os.environ, "PYTHONPATH": f"{name}:lib"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return [Result(f"status with {VFS} VFs, in ms", float(done.stdout), AIM_MS, "the clock")]


def measure() -> float:
    """The time of one status request in ms."""
    import ovs._json  # noqa: F401, PLC0415 - python-ovs falls back to Python without an error if it is missing

    with status() as ready:
        told = ready.collect()
        (pool,) = told["pools"]
        if len(pool["pfs"][0]["vfs"]) != VFS or len(told["claims"]) != VFS:
            raise RuntimeError("the status does not tell of all VFs")
        return medians({"status": Turn(ready.collect)}, ROUNDS)["status"] * 1000


@contextmanager
def status() -> Iterator[Status]:
    """The status of such a host."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vfmigrate-bench-")))
        for folder in ("ovs", "modules"):
            (place / folder).mkdir()
        hardware = Hardware(total_vfs=VFS)
        card = Card((PF,), hardware=hardware, netdevs=Loopbacks())
        card.autoprobe(PF, "0")
        card.set_eswitch_mode(PF, SWITCHDEV)
        card.numvfs(PF, str(VFS))
        for index in range(VFS):
            vf = card.vf(index)
            card.set_port_function(PF, card.ports(PF)[index + 1].index, migratable=True)
            card.driver_override(vf, "mlx5_vfio_pci")
            card.drivers_probe(vf)
        sysfs_tree.make(card, place / "sys")
        (place / "modules/modules.alias").write_text(hardware.modules_alias())
        switch = stack.enter_context(OvsServer(place / "ovs", dummy=True))
        store = ClaimStore(place / "claims")
        stack.callback(store.close)
        fill(store, switch, card)
        ovs = OpenVswitch(switch.remote)
        stack.callback(ovs.close)
        links = Links()
        stack.callback(links.close)
        devlink = Devlink(connect=stack.enter_context(devlink_clients(card, place / "devlink")))
        stack.callback(devlink.close)
        host = Host(Sysfs(place / "sys", modules=place / "modules"), devlink, links, ovs)
        pool = Pool("data", (PciAddress.parse(PF),), BRIDGE, vfs=VFS)
        config = Config({"data": pool})
        offload = HardwareOffload(lambda _unit: None)
        log = Journal(place / "no-journal")
        stack.callback(log.close)
        services = HostServices(config, host, store, Converger(host, config, store), log)
        networks = Networks(config, host.sysfs, store, cast("Hypervisor", None))  # status asks no libvirt
        provisioner = Provisioner(services, networks, udev=Udev(), offload=offload)
        yield Status(
            services, Observer(services, offload, provisioner.check), MigrationSlots(config, host, store)
        )


@contextmanager
def devlink_clients(card: Card, path: Path) -> Iterator[Callable[[], socket.socket]]:
    """Makes sockets to a devlink that answers for the card in its present state."""
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
        yield lambda: connected(path)
    finally:
        server.terminate()
        server.join()


def connected(path: Path) -> socket.socket:
    """A socket to a fake kernel that listens at `path`."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(os.fspath(path))
    return client


def fill(store: ClaimStore, switch: OvsServer, card: Card) -> None:
    """A claim and a port for every VF."""
    switch.add_bridge(BRIDGE)
    words: list[str] = []
    for index in range(VFS):
        uuid = f"22222222-2222-4222-8222-{index:012d}"
        vf = PciAddress.parse(card.vf(index))
        claim = store.put(Claim(vf, "data", uuid, f"guest{index}", PLUGGED, 0.0, vlan=42))
        name = f"port{index}"
        ids = f"external_ids:vfmigrate=port external_ids:{OWNER_KEY}={claim.id}"
        words += [
            "--",
            "add-port",
            BRIDGE,
            name,
            "tag=42",
            "--",
            "set",
            "Interface",
            name,
            "type=dummy",
            *ids.split(),
        ]
    switch.vsctl(*words[1:])


if __name__ == "__main__":
    print(measure())
