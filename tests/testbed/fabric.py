# SPDX-License-Identifier: GPL-2.0-or-later
"""The network between the hosts: a physical switch, a management network, and a peer beyond the switch.

All of it lies in the network namespace of the run. The switch is an Open vSwitch bridge in user space (so
that the machine's kernel needs no VLANs) which learns as a real switch does: until it sees a frame from a
MAC elsewhere, or 300 s pass, it goes on sending that MAC's frames to the port it knows. The hosts' uplinks
are its trunks of VLANS; the peer has an access port in each.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tests.testbed.namespace import RUN
from tests.testbed.root import host_root
from tests.testbed.run import run

VLANS = (42, 43)
SWITCH = "switch"
MANAGEMENT = "mgmt"
START_TIMEOUT_S = 20

# The switch's sockets and database, in the run's directory as the processes in the host root see it.
INSIDE = Path("/mnt/switch")
ENVIRONMENT = {"OVS_RUNDIR": str(INSIDE), "OVS_LOGDIR": str(INSIDE), "OVS_DBDIR": str(INSIDE)}


class FabricError(Exception):
    """The network between the hosts does not come up."""


@dataclass(frozen=True)
class HostPorts:
    """The tap devices of a host on the two networks."""

    management: str
    uplink: str


def host_ports(name: str) -> HostPorts:
    """The names of the tap devices of host `name` ("a", "b")."""
    return HostPorts(management=f"mgmt-{name}", uplink=f"uplink-{name}")


def management_address(number: int) -> str:
    """The address of a host on the management network, by its number; 254 is the runner's."""
    return f"10.77.0.{number}"


def peer_port(vlan: int) -> str:
    """The peer's device in a VLAN."""
    return f"peer-{vlan}"


def peer_address(vlan: int) -> str:
    """The peer's address in a VLAN."""
    return f"10.{vlan}.0.1"


def guest_address(vlan: int, number: int) -> str:
    """A guest's address in a VLAN."""
    return f"10.{vlan}.0.{number}"


def build(hosts: tuple[str, ...]) -> None:
    """Make both networks in the present network namespace, with ports for the hosts."""
    build_management(hosts)
    start_switch()
    for name in hosts:
        tap(host_ports(name).uplink)
    build_switch(hosts)


def reset(hosts: tuple[str, ...]) -> None:
    """Make the switch and the peer's ports again, with nothing learned. The hosts must be off."""
    vsctl("--if-exists", "del-br", SWITCH)
    build_switch(hosts)


def build_switch(hosts: tuple[str, ...]) -> None:
    """Make the switch, its trunks to the hosts and the peer's access ports."""
    vsctl("add-br", SWITCH, "--", "set", "bridge", SWITCH, "datapath_type=netdev", "fail_mode=standalone")
    for name in hosts:
        uplink = host_ports(name).uplink
        trunks = ",".join(str(vlan) for vlan in VLANS)
        vsctl("add-port", SWITCH, uplink, f"trunks={trunks}")
    for vlan in VLANS:
        port = peer_port(vlan)
        vsctl("add-port", SWITCH, port, f"tag={vlan}", "--", "set", "interface", port, "type=internal")
        run("ip", "address", "add", f"{peer_address(vlan)}/24", "dev", port)
        run("ip", "link", "set", port, "up")


def build_management(hosts: tuple[str, ...]) -> None:
    """The network of ssh and of the migration's own traffic."""
    run("ip", "link", "add", MANAGEMENT, "type", "bridge")
    run("ip", "address", "add", f"{management_address(254)}/24", "dev", MANAGEMENT)
    run("ip", "link", "set", MANAGEMENT, "up")
    for name in hosts:
        port = host_ports(name).management
        tap(port)
        run("ip", "link", "set", port, "master", MANAGEMENT)


def tap(name: str) -> None:
    """A tap device for a NIC of a host."""
    run("ip", "tuntap", "add", "dev", name, "mode", "tap")
    run("ip", "link", "set", name, "up")


def start_switch() -> None:
    """Start Open vSwitch from the host root, on a database of the run's own."""
    (RUN / "switch").mkdir()
    database = str(INSIDE / "conf.db")
    inside("ovsdb-tool", "create", database, "/usr/share/openvswitch/vswitch.ovsschema")
    log = "--log-file"
    spawn("ovsdb-server", database, f"--remote=punix:{INSIDE}/db.sock", "--pidfile", log, "-vconsole:off")
    await_file(RUN / "switch" / "db.sock")
    vsctl("--no-wait", "init")
    spawn("ovs-vswitchd", f"unix:{INSIDE}/db.sock", "--pidfile", log, "-vconsole:off")


def spawn(*command: str) -> None:
    """Start a daemon in the host root. It ends with the run's namespaces."""
    subprocess.Popen(
        ["chroot", host_root(), *command],
        env={"PATH": "/usr/sbin:/usr/bin", **ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def await_file(path: Path) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise FabricError(f"the switch did not start: {path} is missing")
        time.sleep(0.02)


def inside(*command: str) -> str:
    """Run a command in the host root."""
    return run("chroot", host_root(), *command, env=ENVIRONMENT)


def vsctl(*words: str) -> None:
    """Run ovs-vsctl on the switch, with a time limit."""
    inside("ovs-vsctl", f"--timeout={START_TIMEOUT_S}", *words)


def forget() -> None:
    """Let the switch forget all MACs: their frames go to every port until it learns them again."""
    inside("ovs-appctl", "fdb/flush", SWITCH)


def learned_port(mac: str, vlan: int) -> Optional[str]:
    """The port at which the switch has learned a MAC, or None."""
    numbers = re.findall(r"^ *(\d+)\(([^)]+)\): addr", inside("ovs-ofctl", "show", SWITCH), re.MULTILINE)
    names = dict(numbers)
    return parse_learned(inside("ovs-appctl", "fdb/show", SWITCH), mac, vlan, names)


def parse_learned(table: str, mac: str, vlan: int, names: dict[str, str]) -> Optional[str]:
    """Find a MAC in the output of `ovs-appctl fdb/show`; `names` maps port numbers to names."""
    for line in table.splitlines()[1:]:
        port, tag, address, _age = line.split()
        if address == mac and int(tag) == vlan:
            return names.get(port, port)
    return None
