# SPDX-License-Identifier: GPL-2.0-or-later
"""Two namespace hosts ready for guests with VFs: a card in each, Open vSwitch and libvirt running, hooks recorded."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fakes import preload
from tests.fakes.card import SWITCHDEV
from tests.fakes.hardware import DevlinkPort, Hardware
from tests.fakes.slot import PluggedCard
from tests.integration import product
from tests.integration.guests import EMULATOR, Guest
from tests.integration.hook_calls import HookCalls
from tests.integration.hosts import BRIDGE, Fabric, Host, two_hosts
from tests.integration.product import Product

EMULATOR_SOURCE = Path(__file__).with_name("emulator.sh")
RTNL_SHIM = "/usr/local/lib/rtnl_shim.so"
VFS = 4
# The cards sit in different slots, so that a VF has another address on the other host.
PFS = {"host-a": "0000:01:00.0", "host-b": "0000:41:00.0"}


@dataclass(frozen=True)
class Outcome:
    """How a migration ended, as the one who asked for it sees it."""

    status: int
    error: str


class Node:
    """One of the two hosts, with what a test needs to know of it."""

    def __init__(self, host: Host, pf: str, card: PluggedCard) -> None:
        self.host = host
        self.pf = pf
        self.card = card
        self.hooks = HookCalls(host)
        self.product = Product(host, self.pf, {})
        host.write(EMULATOR, EMULATOR_SOURCE.read_text(), 0o755)
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

    def provision(self) -> None:
        """Make the VFs, as an administrator does before anything of ours runs."""
        sysfs = self.host.path(f"/sys/bus/pci/devices/{self.pf}")
        (sysfs / "sriov_drivers_autoprobe").write_text("0")
        (sysfs / "sriov_numvfs").write_text("0")
        (sysfs / "sriov_numvfs").write_text(str(VFS))
        self.card.set_eswitch_mode(self.pf, SWITCHDEV)

    def reset(self) -> None:
        """Take away what a test left: guests, daemon, ports, VFs, orders to the hooks."""
        for name, state in self.host.domains().items():
            if state != "shut off":
                self.host.virsh("destroy", name)
            if name in self.host.domains():
                self.host.virsh("undefine", name)
        self.product.reset()
        self.hooks.clear()
        self.set_unmigratable(False)
        for port in self.host.ports():
            self.host.vsctl("del-port", BRIDGE, port)
        self.card.refit(Hardware())
        self.provision()

    def set_unmigratable(self, unmigratable: bool) -> None:
        """Make the state of VFs that guests get from now on impossible to load, or possible again."""
        flag = self.host.path("/run/emulator/unmigratable")
        flag.parent.mkdir(exist_ok=True)
        if unmigratable:
            flag.touch()
        else:
            flag.unlink(missing_ok=True)

    def start_guest(self, guest: Guest) -> None:
        """Start a transient guest."""
        self.host.virsh("create", "/dev/stdin", stdin=guest.xml())

    def migrate(self, name: str, target: Node, *options: str) -> Outcome:
        """Migrate a guest as an administrator does, by `virsh migrate --live`."""
        command = ("virsh", "migrate", "--live", *options, name, f"qemu+tcp://{target.host.name}/system")
        done = self.host.run(*command, check=False)
        return Outcome(done.returncode, done.stderr.strip())

    def logs(self) -> dict[str, str]:
        """What to read when a test failed, by title."""
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
        """Make both hosts as good as new."""
        for node in (self.a, self.b):
            node.reset()

    def logs(self) -> dict[str, str]:
        """The logs of both hosts by title."""
        return {**self.a.logs(), **self.b.logs()}


@contextmanager
def started_pair(root: Path, place: Path) -> Iterator[Pair]:
    """Two hosts over the root file system `root`, everything started; `place` is an empty directory."""
    (place / "staged").mkdir()
    product.stage(place / "staged")
    with ExitStack() as stack:
        a, b, fabric = stack.enter_context(two_hosts(root, place))
        nodes = []
        for host in (a, b):
            pf = PFS[host.name]
            node = Node(host, pf, stack.enter_context(host.card(pf)))
            node.product.install(place / "staged")
            shutil.copy(preload.build("rtnl_shim", place), host.path(RTNL_SHIM))
            host.start_openvswitch()
            host.start_libvirtd({"LD_PRELOAD": RTNL_SHIM, "FAKE_RTNL": "/run/slot/rtnetlink"})
            nodes.append(node)
        yield Pair(nodes[0], nodes[1], fabric)
