# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hypervisors in namespaces, with real libvirt, QEMU and Open vSwitch, and the fabric between.

A host is the cached host root under a writable overlay, in memory, in private namespaces. `mgmt` carries
libvirt and the migrations, `p0` is the uplink of the Open vSwitch bridge `br-data` (userspace datapath);
both lead to bridges in a third network namespace, the fabric. Two hosts are up in about a second and
leave nothing behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Callable, Optional

from tests.fakes.slot import Control, PluggedCard
from tests.integration import namespaces
from tests.integration.libvirt_setup import MONOLITHIC, LibvirtSetup
from tests.integration.namespaces import Namespace, Word
from tests.patience import PATIENCE

# The clone, from which processes around a host (and not in it) import.
TREE = os.fspath(Path(__file__).parents[2])
BRIDGE = "br-data"
UPLINK = "p0"
DATABASE = "/etc/openvswitch/conf.db"
OVS_DAEMON = ("--pidfile", "--detach", "--log-file", "-vconsole:off")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}

# Without the filter libvirt asks each QEMU that it starts for some 480 properties of its CPU, one by one.
QEMU_CONF = """\
security_driver = "none"
user = "root"
group = "root"
namespaces = [ ]
stdio_handler = "file"
capability_filters = [ "cpu-unavailable-features" ]
migration_address = "0.0.0.0"
migration_host = "{address}"
"""


LINKS = """\
link set lo up
addr add {address}/24 dev mgmt
link set mgmt up
link set {uplink} up
"""


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until `condition` holds; raises TimeoutError naming `what` after `seconds`."""
    end = time.monotonic() + seconds * PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.02)


class Host:
    """One hypervisor: it runs commands, shows its files, starts and ends its services."""

    def __init__(
        self, namespace: Namespace, name: str, number: int, place: Path, libvirt: LibvirtSetup = MONOLITHIC
    ) -> None:
        self.namespace = namespace
        self.name = name
        self.number = number
        self.place = place
        self.address = f"10.77.0.{number}"
        self.libvirt = libvirt
        self._environment = {**ENVIRONMENT, **libvirt.environment}

    def path(self, inside: str) -> Path:
        """A path of the host as seen from outside. Absolute symbolic links point out of the host."""
        return Path(f"/proc/{self.namespace.pid}/root") / inside.lstrip("/")

    def run(
        self,
        *words: Word,
        check: bool = True,
        stdin: str = "",
        env: Optional[Mapping[str, str]] = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host; raises CommandError on a status other than 0 if `check`."""
        return self.namespace.run(
            *_surrounded(words, env),
            check=check,
            stdin=stdin,
            env=self._environment,
            timeout=timeout * PATIENCE,
        )

    def spawn(
        self, *words: Word, env: Optional[Mapping[str, str]] = None, log: Optional[Path] = None
    ) -> subprocess.Popen[str]:
        """Start a command on the host; standard output and error go to `log`, or to pipes without one."""
        return self.namespace.spawn(*_surrounded(words, env), env=ENVIRONMENT, log=log)

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the host, with its directories."""
        file = self.path(inside)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def virsh(self, *words: Word, check: bool = True, stdin: str = "") -> str:
        """What virsh prints, without its trailing lines."""
        return self.run("virsh", "-q", *words, check=check, stdin=stdin).stdout.strip()

    def vsctl(self, *words: Word) -> str:
        """What ovs-vsctl prints."""
        return self.run("ovs-vsctl", *words).stdout.strip()

    def pid_of(self, pid_file: str) -> Optional[int]:
        """The process that a pid file names, as the host sees it; None when it is not running."""
        try:
            pid = int(self.path(pid_file).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self.path(f"/proc/{pid}").exists() else None

    @contextmanager
    def halted(self, pid_file: str) -> Iterator[None]:
        """Stop the process that a pid file names by SIGSTOP during a `with` block."""
        pid = self.pid_of(pid_file)
        assert pid is not None
        self.run("kill", "-STOP", str(pid))
        try:
            yield
        finally:
            self.run("kill", "-CONT", str(pid))

    def stop(self, pid_file: str, signal: str = "TERM") -> None:
        """End the process that a pid file names and wait until it is gone."""
        pid = self.pid_of(pid_file)
        if pid is not None:
            self.run("kill", f"-{signal}", str(pid))
            wait_for(f"{pid_file} of {self.name} to end", lambda: not self.path(f"/proc/{pid}").exists())

    def configure(self) -> None:
        """Write the host's configuration files and bring up its links (which must be there)."""
        self.write("/etc/hostname", f"{self.name}\n")
        self.write("/etc/hosts", "127.0.0.1 localhost\n10.77.0.1 host-a\n10.77.0.2 host-b\n")
        self.libvirt.configure(self)
        self.write("/etc/libvirt/qemu.conf", QEMU_CONF.format(address=self.address))
        for name in ("lock", "openvswitch", "libvirt"):
            self.path(f"/run/{name}").mkdir()
        self.run(
            "ip",
            "-batch",
            "-",
            stdin=LINKS.format(address=self.address, uplink=UPLINK),
        )

    @contextmanager
    def card(self, *pfs: str) -> Iterator[PluggedCard]:
        """Put a fake card with these physical functions into the host during this context.

        libvirt can set up the VFs of the first only.
        """
        slot = self.namespace.spawn_around(
            sys.executable,
            "-m",
            "tests.fakes.slot",
            self.place / "root",
            UPLINK,
            *pfs,
            env={"PYTHONPATH": TREE},
        )
        # On exit its pipes are closed, so that it ends, and it is waited for.
        with slot:
            assert slot.stdout is not None
            if not slot.stdout.readline():
                raise RuntimeError(f"the card's process ended at once, with status {slot.wait()}")
            control = Control(os.fspath(self.path("/run/slot/control")), authkey=b"")
            control.connect()
            yield control.card()

    def start_openvswitch(self) -> None:
        """Start Open vSwitch with the bridge and its uplink; returns when both daemons serve."""
        self.run("ovsdb-tool", "create", DATABASE, "/usr/share/openvswitch/vswitch.ovsschema")
        self.start_database()
        self.vsctl("--no-wait", "init")
        self.start_vswitchd()
        self.add_bridge()

    def add_bridge(self) -> None:
        """Make the bridge with its uplink."""
        bridge = ("add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev")
        self.vsctl(*bridge, "--", "add-port", BRIDGE, UPLINK)

    def start_database(self) -> None:
        """Start only the switch's database server, with its database."""
        self.run("ovsdb-server", DATABASE, "--remote=punix:/run/openvswitch/db.sock", *OVS_DAEMON)

    def stop_database(self) -> None:
        """End the switch's database server; the switch daemon keeps running."""
        self.stop("/run/openvswitch/ovsdb-server.pid")

    def start_vswitchd(self) -> None:
        """Start only the switch daemon; the database server runs already."""
        self.run("ovs-vswitchd", *OVS_DAEMON)

    def stop_vswitchd(self) -> None:
        """End the switch daemon; the database server keeps running."""
        self.stop("/run/openvswitch/ovs-vswitchd.pid")

    def start_libvirtd(self, env: Optional[Mapping[str, str]] = None) -> None:
        """Start libvirt's daemons; returns when their sockets accept."""
        # SYSTEMD_DEVICE_VERIFY_SYSFS: libudev otherwise checks that /sys is the kernel's own.
        surroundings = {"SYSTEMD_DEVICE_VERIFY_SYSFS": "0", **(env or {})}
        for daemon in self.libvirt.daemons:
            self.libvirt.start(self, daemon, surroundings)

    def stop_libvirtd(self) -> None:
        """End libvirt's daemons; domains keep running.

        They are killed, since libvirt 11.3 does not always end on SIGTERM: its udev thread can miss the request.
        """
        for daemon in reversed(self.libvirt.daemons):
            self.stop(f"/run/{daemon}.pid", "KILL")

    def domains(self) -> dict[str, str]:
        """State of each domain by name, defined ones included."""
        rows = (line.split(None, 2) for line in self.virsh("list", "--all").splitlines())
        return {name: state for _, name, state in rows}

    def ports(self) -> list[str]:
        """Names of the ports in the bridge without the uplink."""
        return [name for name in self.vsctl("list-ports", BRIDGE).split() if name != UPLINK]


def _surrounded(words: Sequence[Word], env: Optional[Mapping[str, str]]) -> list[Word]:
    """A command with additions to its environment that are set on the host, where preloaded libraries must be found."""
    return ["env", *(f"{name}={value}" for name, value in env.items()), *words] if env else list(words)


class Fabric:
    """The network between the hosts: a learning bridge for each of their links."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        for bridge in ("mgmt", "data"):
            namespace.run("ip", "link", "add", bridge, "type", "bridge")
            namespace.run("ip", "link", "set", bridge, "up")

    def connect(self, host: Namespace, name: str, bridge: str, inner: str) -> None:
        """Connect the link `inner` of the host `name` to a bridge."""
        outer = self.link(bridge, name)
        pair = ("type", "veth", "peer", "name", inner, "netns", str(host.pid))
        self.namespace.run("ip", "link", "add", "name", outer, *pair)
        self.namespace.run("ip", "link", "set", outer, "master", bridge, "up")

    @staticmethod
    def link(bridge: str, host: str) -> str:
        """The name of the fabric's end of the link between a host and a bridge."""
        return f"{bridge}-{host[-1]}"


@contextmanager
def two_hosts(
    roots: tuple[Path, Path], place: Path, libvirt: LibvirtSetup = MONOLITHIC
) -> Iterator[tuple[Host, Host, Fabric]]:
    """Two configured hosts over their root file systems, and the fabric; no service runs yet.

    `place` is an empty directory for mount points.
    """
    with ExitStack() as stack:
        fabric = Fabric(stack.enter_context(namespaces.network()))
        hosts = []
        for number, (letter, root) in enumerate(zip("ab", roots), start=1):
            name = f"host-{letter}"
            (place / name).mkdir()
            space = stack.enter_context(namespaces.host(name, root, place / name))
            fabric.connect(space, name, "mgmt", "mgmt")
            fabric.connect(space, name, "data", UPLINK)
            hosts.append(Host(space, name, number, place / name, libvirt))
            hosts[-1].configure()
        yield hosts[0], hosts[1], fabric
