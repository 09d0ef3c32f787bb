# SPDX-License-Identifier: GPL-2.0-or-later
"""Two namespace hosts for guests with VFs: each with a card, Open vSwitch, libvirt and recorders of the hooks."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional

import pytest

from tests.fakes import preload
from tests.fakes.card import SWITCHDEV
from tests.fakes.hardware import DevlinkPort, Hardware
from tests.fakes.slot import PluggedCard
from tests.integration import product
from tests.integration.guests import EMULATOR, Guest, hostdev_network
from tests.integration.hook_calls import HookCalls
from tests.integration.hosts import BRIDGE, UPLINK, Fabric, Host, two_hosts, wait_for
from tests.integration.libvirt_setup import MONOLITHIC, LibvirtSetup
from tests.integration.namespaces import signal_child
from tests.integration.product import Product
from tests.patience import PATIENCE

EMULATOR_SOURCE = Path(__file__).with_name("emulator.sh")
MONITOR_PROXY = "/usr/local/lib/monitor_proxy.py"
RTNL_SHIM = "/usr/local/lib/rtnl_shim.so"
GENL_SHIM = "/usr/local/lib/genl_shim.so"
VFIO_SHIM = "/usr/local/lib/vfio_shim.so"
SHIMS = {
    "LD_PRELOAD": f"{GENL_SHIM}:{VFIO_SHIM}",
    "FAKE_GENL": "/run/slot/devlink",
    "FAKE_VFIO": "/dev/vfio",
}
VFS = 4
# The cards are in different slots, so that a VF has another address on the other host.
PFS = {"host-a": "0000:01:00.0", "host-b": "0000:41:00.0"}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a migration as virsh reports it."""

    status: int
    error: str


@dataclass(frozen=True)
class SwitchPort:
    """A port in the bridge: its VLAN tag, and the external IDs of its interface."""

    tag: Optional[int]
    ids: Mapping[str, str]


@dataclass(frozen=True)
class State:
    """The state of a host, for comparison before and after."""

    guests: Mapping[str, str]
    switch_ports: Mapping[str, SwitchPort]
    drivers: Mapping[str, Optional[str]]
    overrides: Mapping[str, Optional[str]]
    macs: Mapping[Optional[int], Optional[str]]
    migratable: Mapping[Optional[int], Optional[bool]]
    links_up: Mapping[str, bool]
    claims: Mapping[str, tuple[str, str]]


class Migration:
    """A running `virsh migrate`."""

    def __init__(self, host: Host, process: subprocess.Popen[str]) -> None:
        self._host = host
        self._process = process

    def finish(self, seconds: float = 60) -> Outcome:
        """Wait for the end, at most this many seconds."""
        _, error = self._process.communicate(timeout=seconds * PATIENCE)
        return Outcome(self._process.returncode, error.strip())

    def kill(self) -> None:
        """Kill virsh."""
        signal_child(self._process, "KILL")
        self._process.communicate(timeout=10)


class Node:
    """One of the two hosts."""

    def __init__(self, host: Host, pfs: Sequence[str], card: PluggedCard) -> None:
        self.host = host
        self._pfs = pfs
        self.pf = pfs[0]
        self.card = card
        self.hooks = HookCalls(host)
        self.product = Product(host, self.pf, dict(SHIMS))
        host.write(EMULATOR, EMULATOR_SOURCE.read_text(), 0o755)
        host.write(MONITOR_PROXY, Path(__file__).with_name(Path(MONITOR_PROXY).name).read_text())
        host.write(f"/usr/lib/modules/{os.uname().release}/modules.alias", Hardware().modules_alias())

    def vf(self, index: int) -> str:
        """The address of a VF on this host."""
        return self.card.vf(index, self.pf)

    def port(self, index: int) -> DevlinkPort:
        """The devlink port of a VF."""
        (port,) = [port for port in self.card.ports(self.pf) if port.vf == index]
        return port

    def representor(self, index: int) -> str:
        """The name of a VF's representor."""
        netdev = self.port(index).netdev
        assert netdev is not None
        return netdev.name

    def provision(self, vfs: int = VFS) -> None:
        """Create the VFs, as an administrator does before vfmigrate runs."""
        for pf in self._pfs:
            sysfs = self.host.path(f"/sys/bus/pci/devices/{pf}")
            (sysfs / "sriov_drivers_autoprobe").write_text("0")
            (sysfs / "sriov_numvfs").write_text("0")
            (sysfs / "sriov_numvfs").write_text(str(vfs))
            self.card.set_eswitch_mode(pf, SWITCHDEV)

    def reset(self) -> None:
        """Remove what a test left: guests, daemon, ports, VFs, orders to the hooks."""
        for name, state in self.host.domains().items():
            if state != "shut off":
                self.host.virsh("destroy", name)
            if name in self.host.domains():
                self.host.virsh("undefine", name)
        self.product.reset()
        if BRIDGE not in self.host.vsctl("list-br").split():
            self.host.add_bridge()
        for name in self.host.virsh("net-list", "--name").split():
            self.host.virsh("net-destroy", name)
        for name in self.host.virsh("net-list", "--all", "--name").split():
            self.host.virsh("net-undefine", name)
        if any(each.driver for each in self.card.functions() if each.pf is not None):
            self.restart_libvirtd()  # libvirt remembers VFs that it did not bind itself, and would leave them bound
        self.hooks.clear()
        self.set_unmigratable(False)
        self.set_ballast(0)
        self.set_hotplug(False)
        for port in self.host.ports():
            self.host.vsctl("del-port", BRIDGE, port)
        self.card.refit(Hardware())
        self.provision()

    def make_network(self, name: str) -> None:
        """Start a transient hostdev network of all VFs; the next reset removes it."""
        xml = hostdev_network(name, [self.vf(index) for index in range(VFS)])
        self.host.virsh("net-create", "/dev/stdin", stdin=xml)

    def set_unmigratable(self, unmigratable: bool) -> None:
        """Make loading of device state fail, or work again, for VFs that guests get from now on."""
        self._tell_emulator("unmigratable", unmigratable)

    def set_hotplug(self, hotplug: bool) -> None:
        """Allow or forbid plugging VFs into guests that start from now on."""
        self._tell_emulator("hotplug", hotplug)

    def _tell_emulator(self, what: str, wanted: bool) -> None:
        flag = self.host.path(f"/run/emulator/{what}")
        flag.parent.mkdir(exist_ok=True)
        if wanted:
            flag.touch()
        else:
            flag.unlink(missing_ok=True)

    def set_ballast(self, mebibytes: int) -> None:
        """Fill this much memory of guests that start from now on with incompressible data; 0 for none."""
        ballast = self.host.path("/run/emulator/ballast")
        ballast.parent.mkdir(exist_ok=True)
        if mebibytes:
            ballast.write_bytes(random.Random(1).randbytes(mebibytes << 20))
        else:
            ballast.unlink(missing_ok=True)

    def state(self) -> State:
        """What a migration can change on this host, as observed."""
        ports = [port for port in self.card.ports(self.pf) if port.vf is not None and port.netdev is not None]
        functions = [each for each in self.card.functions() if each.pf is not None]
        links = {port.netdev.name: port.netdev.ifindex for port in ports if port.netdev is not None}
        return State(
            guests=self.host.domains(),
            switch_ports=self.switch_ports(),
            drivers={each.address: each.driver for each in functions},
            overrides={each.address: each.driver_override for each in functions},
            macs={port.vf: port.hw_addr for port in ports},
            migratable={port.vf: port.migratable for port in ports},
            links_up={name: self._is_up(name) for name in links},
            claims={vf: (claim["domain"], claim["state"]) for vf, claim in self.product.claims().items()},
        )

    def become(
        self, state: State, look: Callable[[State], State] = lambda state: state, seconds: float = 10
    ) -> None:
        """Expect `look` of the host's state to become this within so many seconds."""
        wait_for(
            f"{self.host.name} to be as expected",
            lambda: replace(look(self.state()), links_up=state.links_up) == state,
            seconds,
        )
        if look(self.state()) != state:
            # When it releases a port, the userspace datapath restores the port's earlier flags, perhaps later than
            # this.
            self.reconcile()
            wait_for(f"the links of {self.host.name}", lambda: look(self.state()) == state)

    def _is_up(self, netdev: str) -> bool:
        flags = json.loads(self.host.run("ip", "-json", "link", "show", "dev", netdev).stdout)[0]["flags"]
        return "UP" in flags

    def switch_ports(self) -> dict[str, SwitchPort]:
        """The ports of the bridge in the database, without its own and the uplink."""
        tables = (("Port", "name,tag"), ("Interface", "name,external_ids"))
        asked = [word for table, columns in tables for word in ("--", f"--columns={columns}", "list", table)]
        answers = self.host.vsctl("--format=json", *asked).splitlines()
        tags, ids = (dict(json.loads(answer)["data"]) for answer in answers)
        return {
            name: SwitchPort(tag if isinstance(tag, int) else None, dict(ids[name][1]))
            for name, tag in tags.items()
            if name not in {BRIDGE, UPLINK}
        }

    def start_guest(self, guest: Guest) -> None:
        """Start a transient guest."""
        self.host.virsh("create", "/dev/stdin", stdin=guest.xml())

    def define_guest(self, guest: Guest) -> None:
        """Define a persistent guest, without starting it."""
        self.host.virsh("define", "/dev/stdin", stdin=guest.xml())

    def begin_migration(self, name: str, target: Node, *options: str) -> Migration:
        """Migrate a guest as an administrator does, live unless it is `--offline`, without waiting for the end."""
        mode = () if "--offline" in options else ("--live",)
        uri = f"qemu+tcp://{target.host.name}/system"
        words = ("virsh", "migrate", *mode, *options, name, uri)
        return Migration(self.host, self.host.spawn(*words, env=self.host.libvirt.environment))

    def migrate(self, name: str, target: Node, *options: str) -> Outcome:
        """Migrate a guest and wait for the outcome."""
        return self.begin_migration(name, target, *options).finish()

    def wait_until_ready(self) -> None:
        """Wait until the daemon has prepared the pool's VFs for guests, and has asked one of them what it can do."""
        wait_for(
            f"the VFs of {self.host.name} to be migratable",
            lambda: all(port.migratable for port in self.card.ports(self.pf) if port.vf is not None),
        )
        # It asks during the same reconcile, at whose end it logs what it changed.
        wait_for(f"the reconcile of {self.host.name}", lambda: "<6>reconcile: set" in self.product.log())

    def wait_until_settled(self, seconds: float = 10) -> None:
        """Wait until the daemon has written the metadata of all running guests, at most this many seconds."""
        wait_for(
            f"the guests of {self.host.name} to be stamped",
            lambda: all("psid=" in self.host.virsh("dumpxml", name) for name in self.host.domains()),
            seconds,
        )

    def reconcile(self, *, fails: bool = False) -> None:
        """Have the daemon reconcile once, which says by its exit status whether something failed."""
        done = self.host.run("vfmigrate", "reconcile", check=False)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr

    def restart_libvirtd(self) -> None:
        """Restart libvirtd; guests keep running."""
        self.host.stop_libvirtd()
        self.start_libvirtd()

    def start_libvirtd(self) -> None:
        """Start libvirtd with a view of the card's VFs."""
        self.host.start_libvirtd({"LD_PRELOAD": RTNL_SHIM, "FAKE_RTNL": "/run/slot/rtnetlink"})

    def logs(self) -> dict[str, str]:
        """The logs to print after a failure, by title."""
        name = self.host.name
        libvirtd = self.host.path("/var/log/libvirtd.log")
        lines = libvirtd.read_text(errors="replace").splitlines() if libvirtd.exists() else []
        return {
            f"hooks of {name}": "\n".join(f"{call.time:.3f} {call}" for call in self.hooks.calls()),
            f"vfmigrated of {name}": self.product.log(),
            f"libvirtd of {name}": "\n".join(line for line in lines[-400:] if " error : " in line),
        }


@dataclass(frozen=True)
class Pair:
    """Both hosts and the network between."""

    a: Node
    b: Node
    fabric: Fabric

    def reset(self) -> None:
        """Reset both hosts."""
        with ThreadPoolExecutor() as lanes:
            for job in [lanes.submit(node.reset) for node in (self.a, self.b)]:
                job.result()

    def logs(self) -> dict[str, str]:
        """The logs of both hosts by title."""
        return {**self.a.logs(), **self.b.logs()}


def start_products(pair: Pair, *, claim_timeout: int = 120, reconcile_interval: int = 3600) -> None:
    """Run vfmigrate on both hosts, and wait until their pools are ready for guests; times are in seconds."""
    for node in (pair.a, pair.b):
        node.product.launch(claim_timeout=claim_timeout, reconcile_interval=reconcile_interval)
    for node in (pair.a, pair.b):
        node.product.wait_until_answering()
        node.wait_until_ready()


@contextmanager
def started_pair(
    root: Path,
    place: Path,
    *,
    first: Optional[Path] = None,
    libvirt: LibvirtSetup = MONOLITHIC,
    more_pfs: Sequence[str] = (),
) -> Iterator[Pair]:
    """Two hosts over the root file system `root`, everything started; `place` is an empty directory.

    The `first` host may have a root of its own. `more_pfs` are further physical functions of each host.
    """
    (place / "staged").mkdir()
    product.stage(place / "staged")
    with ExitStack() as stack:
        a, b, fabric = stack.enter_context(two_hosts((first or root, root), place, libvirt))
        nodes = []
        for host in (a, b):
            pfs = (PFS[host.name], *more_pfs)
            node = Node(host, pfs, stack.enter_context(host.card(*pfs)))
            node.product.install(place / "staged")
            for name in (RTNL_SHIM, GENL_SHIM, VFIO_SHIM):
                shutil.copy(preload.build(Path(name).stem, place), host.path(name))
            host.start_openvswitch()
            node.start_libvirtd()
            stack.callback(node.product.stop)
            nodes.append(node)
        yield Pair(nodes[0], nodes[1], fabric)


def pair_of_module(
    root: Callable[[], Path],
    *,
    first: Optional[Callable[[], Path]] = None,
    libvirt: LibvirtSetup = MONOLITHIC,
) -> object:
    """A fixture: a pair of its own for the tests of one module, as `started_pair` makes it."""

    @pytest.fixture(scope="module")
    def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
        place = tmp_path_factory.mktemp("hosts")
        with started_pair(
            root(), place, first=first() if first is not None else None, libvirt=libvirt
        ) as pair:
            yield pair

    return started


def reset_and_ready(pair: Pair) -> Pair:
    """The pair in its initial state, with vfmigrate running and its pools ready."""
    pair.reset()
    start_products(pair)
    return pair
