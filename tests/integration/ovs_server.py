# SPDX-License-Identifier: GPL-2.0-or-later
"""A real ovsdb-server and ovs-vswitchd in a private directory and network namespace, with the userspace datapath.

The programs are those of the test hosts' root, run with that root's loader and libraries, so that the machine needs no
Open vSwitch and starts no service of it. The namespace holds the switch's bridges and veth pairs; the far end of a
pair is whatever is plugged in there: a VF, or the fabric.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Callable, Optional, TypeVar, Union

from tests.integration import roots
from tests.integration.namespaces import Namespace, network
from vfmigrate.ovs.openvswitch import OpenVswitch

Word = Union[str, "os.PathLike[str]"]
_Made = TypeVar("_Made")

PATIENCE_S = 20.0
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
TP_STATUS_VLAN_VALID = 1 << 4


class OvsServer:
    """Open vSwitch for one test run; on exit from its context, daemons and namespace end."""

    def __init__(self, folder: Path, *, dummy: bool = False) -> None:
        """Start both daemons with their files in the empty `folder`; `dummy` offers interfaces of type dummy."""
        self.folder = folder
        self.remote = f"unix:{folder}/db.sock"
        self._root = roots.first_root()
        self._dummy = dummy
        self._database: Optional[subprocess.Popen[bytes]] = None
        self._switch: Optional[subprocess.Popen[bytes]] = None
        self.namespace: Namespace = network()
        try:
            schema = self._root / "usr/share/openvswitch/vswitch.ovsschema"
            self.tool("usr/bin/ovsdb-tool", "create", folder / "conf.db", schema)
            self.start_database()
            self.vsctl("--no-wait", "init")
            self.start_switch()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> OvsServer:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the daemons, the switch first, then everything left in the namespace."""
        self.stop_switch()
        self.stop_database()
        self.namespace.close()

    def tool(self, program: str, *words: Word) -> str:
        """Run a program of the root inside the namespace; returns what it printed."""
        return self.namespace.run(*self._command(program, *words), env=self._environment()).stdout

    def vsctl(self, *words: str) -> str:
        """Run `ovs-vsctl`."""
        return self.tool("usr/bin/ovs-vsctl", f"--db={self.remote}", "--timeout=20", *words).strip()

    def ofctl(self, *words: str) -> str:
        """Run `ovs-ofctl`."""
        return self.tool("usr/bin/ovs-ofctl", *words)

    def appctl(self, *words: str) -> str:
        """Run `ovs-appctl` against ovs-vswitchd."""
        return self.tool("usr/bin/ovs-appctl", f"--target={self.folder}/switch.ctl", *words)

    def appctl_database(self, *words: str) -> str:
        """Run `ovs-appctl` against ovsdb-server."""
        return self.tool("usr/bin/ovs-appctl", f"--target={self.folder}/database.ctl", *words)

    def learned(self, bridge: str) -> dict[tuple[int, str], str]:
        """The bridge's MAC table: port by VLAN and MAC, "LOCAL" for the bridge's own."""
        rows = [line.split() for line in self.appctl("fdb/show", bridge).splitlines()[1:]]
        return {(int(vlan), mac): port for port, vlan, mac, _age in rows}

    def start_database(self) -> None:
        """Start ovsdb-server on the existing database; returns when it listens."""
        (self.folder / "db.sock").unlink(missing_ok=True)
        self._database = self._spawn(
            "usr/sbin/ovsdb-server",
            self.folder / "conf.db",
            f"--remote=punix:{self.folder}/db.sock",
            f"--unixctl={self.folder}/database.ctl",
        )
        eventually(lambda: _listens(self.folder / "db.sock"), "ovsdb-server listens", self._database)

    def stop_database(self) -> None:
        """End ovsdb-server if it runs."""
        _end(self._database)
        self._database = None

    def start_switch(self) -> None:
        """Start ovs-vswitchd; returns when it has applied the database's configuration."""
        (self.folder / "switch.ctl").unlink(missing_ok=True)
        self._switch = self._spawn(
            "usr/lib/openvswitch-switch/ovs-vswitchd",
            self.remote,
            f"--unixctl={self.folder}/switch.ctl",
            *(["--enable-dummy"] if self._dummy else []),
        )
        # ovs-vsctl waits for the switch after any change.
        self.vsctl("set", "Open_vSwitch", ".", "external_ids:test=running")

    def stop_switch(self) -> None:
        """End ovs-vswitchd if it runs; its bridges stay in the database."""
        _end(self._switch)
        self._switch = None

    @contextmanager
    def switch_halted(self) -> Iterator[None]:
        """Stop ovs-vswitchd by SIGSTOP during a `with` block."""
        with _halted(self._switch):
            yield

    @contextmanager
    def database_halted(self) -> Iterator[None]:
        """Stop ovsdb-server by SIGSTOP during a `with` block."""
        with _halted(self._database):
            yield

    def add_bridge(self, name: str, *options: str) -> None:
        """Make a bridge with the userspace datapath; `options` are further settings of its row."""
        self.vsctl("add-br", name, "--", "set", "Bridge", name, "datapath_type=netdev", *options)
        self.namespace.run("ip", "link", "set", name, "up")

    def add_link(self, name: str) -> str:
        """Make a veth pair that is up; `name` can be plugged in; returns the name of the far end."""
        far = f"{name}-far"
        self.namespace.run("ip", "link", "add", "name", name, "type", "veth", "peer", "name", far)
        for each in (name, far):
            self.namespace.run("ip", "link", "set", each, "up", "arp", "off")
        return far

    def remove_link(self, name: str) -> None:
        """Remove a pair made by `add_link`."""
        self.namespace.run("ip", "link", "del", name)

    def _command(self, program: str, *words: Word) -> list[Word]:
        loader = self._root / "lib64/ld-linux-x86-64.so.2"
        return [
            loader,
            "--library-path",
            self._root / "usr/lib/x86_64-linux-gnu",
            self._root / program,
            *words,
        ]

    def _environment(self) -> dict[str, str]:
        place = os.fspath(self.folder)
        folders = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        return {"PATH": os.environ["PATH"], **dict.fromkeys(folders, place)}

    def _spawn(self, program: str, *words: Word) -> subprocess.Popen[bytes]:
        command = self.namespace.command(
            *self._command(
                program, *words, "--pidfile", "-vconsole:off", "-vsyslog:off", "-vfile:info", "--log-file"
            )
        )
        # The kernel ends the daemon with this process, however it ends.
        return subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment(),
            start_new_session=True,
        )


@contextmanager
def two_bridges(folder: Path, links: Sequence[str]) -> Iterator[OvsServer]:
    """A server with the bridges br-data and br-other, and these veth pairs, which are in no bridge yet."""
    with OvsServer(folder) as server:
        for bridge in ("br-data", "br-other"):
            server.add_bridge(bridge)
        for name in links:
            server.add_link(name)
        yield server


@contextmanager
def connected(server: OvsServer, links: Sequence[str]) -> Iterator[OpenVswitch]:
    """A connection to the server; at the end these veth pairs are in no bridge."""
    door = OpenVswitch(server.remote)
    yield door
    door.close()
    for name in links:
        server.vsctl("--if-exists", "del-port", name)


class Wire:
    """A packet socket on one end of a veth pair in a namespace: the frames there, with their VLAN tags."""

    def __init__(self, namespace: Namespace, netdev: str) -> None:
        self._socket = in_network(namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        self._socket.bind((netdev, ETH_P_ALL))

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        """Send a frame."""
        self._socket.send(frame)

    def receive(
        self, wanted: Callable[[bytes], bool], patience: float = PATIENCE_S
    ) -> tuple[Optional[int], bytes]:
        """The next wanted frame (without its tag) and its VLAN, if it had a tag.

        Raises AssertionError when none comes within `patience` seconds.
        """
        deadline = time.monotonic() + patience
        while True:
            remaining = deadline - time.monotonic()
            assert remaining > 0, "the frame never came"
            self._socket.settimeout(remaining)
            try:
                data, ancillary, _flags, address = self._socket.recvmsg(2048, socket.CMSG_SPACE(20))
            except socket.timeout:
                continue
            vlan, frame = untag(data, ancillary)
            if address[2] != socket.PACKET_OUTGOING and wanted(frame):
                return vlan, frame


def untag(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> tuple[Optional[int], bytes]:
    """The VLAN of a received frame, which is in the frame or was removed by the kernel (packet(7)), and the rest."""
    for level, kind, payload in ancillary:
        # struct tpacket_auxdata of linux/if_packet.h: status first, the tag at offset 16.
        status = int.from_bytes(payload[:4], "little")
        if (level, kind) == (SOL_PACKET, PACKET_AUXDATA) and status & TP_STATUS_VLAN_VALID:
            return int.from_bytes(payload[16:18], "little") & 0xFFF, data
    if data[12:14] == b"\x81\x00":
        return int.from_bytes(data[14:16], "big") & 0xFFF, data[:12] + data[16:]
    return None, data


def eventually(
    condition: Callable[[], bool], what: str, process: Optional[subprocess.Popen[bytes]] = None
) -> None:
    """Wait until the condition holds, for PATIENCE_S at most and no longer than `process` lives."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process is None or process.poll() is None, f"ended before this was so: {what}"
        assert time.monotonic() < deadline, f"not so within {PATIENCE_S:g} s: {what}"
        time.sleep(0.01)


@contextmanager
def _halted(process: Optional[subprocess.Popen[bytes]]) -> Iterator[None]:
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(os.fspath(path)) == 0


def _end(process: Optional[subprocess.Popen[bytes]]) -> None:
    if process is not None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def in_network(namespace: Namespace, make: Callable[[], _Made]) -> _Made:
    """Call `make` in the network of a namespace, in a separate thread because setns(2) moves only its caller."""
    made: list[_Made] = []

    def enter() -> None:
        with Path(f"/proc/{namespace.pid}/ns/net").open() as handle:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(handle.fileno(), 0) == 0:
                made.append(make())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert made, "cannot enter the namespace's network"
    return made[0]
