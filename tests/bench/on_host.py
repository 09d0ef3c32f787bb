# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs on a test host: vfmigrated and the manual's commands prepare one VF for a guest in turns.

    python3 - PF BRIDGE ROUNDS RUNS < on_host.py

Prints [{"vfmigrated": seconds, "manual": seconds, ...}, ...], the medians of each run, with those of the parts of each
way, as JSON. Both must leave the VF in the same state,
which is checked after every turn; restoring it is not measured. Standard library only, like the host's tools.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

DAEMON = "/run/vfmigrate/vfmigrated.sock"
DEVICES = Path("/sys/bus/pci/devices")
MAC, TAG = "52:54:00:be:0c:01", 42
NAME, UUID = "bench", "be0c0000-0000-4000-8000-000000000001"

Act = Callable[[], object]
#: the parts of how to prepare the VF, and how to undo that
Ways = dict[str, tuple[dict[str, Act], Act]]

DOMAIN = """\
<domain type='qemu' id='9'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <metadata>
    <vfmigrate:vfs xmlns:vfmigrate='urn:vfmigrate:domain:1'>
      <vfmigrate:vf mac='{mac}' address='{vf}' pool='data' vlan='{tag}'/>
    </vfmigrate:vfs>
  </metadata>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <source>
        <address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </hostdev>
  </devices>
</domain>
"""


class Daemon:
    """A connection to vfmigrated that sends requests as the hook does (docs/protocol.md)."""

    def __init__(self, xml: str) -> None:
        self._xml = xml
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(DAEMON)
        self._answers = self._socket.makefile("rb")

    def hook(self, operation: str, sub_operation: str, extra: str = "-") -> None:
        """Send an event; raises RuntimeError when the answer is an error."""
        words = {"operation": operation, "sub_operation": sub_operation, "extra": extra}
        arguments = {"domain": NAME, "xml": self._xml, **words}
        request = {"version": 1, "request": "hook", "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        answer = json.loads(self._answers.readline())
        if "error" in answer:
            raise RuntimeError(f"{operation}: {answer['error']}")


class Vf:
    """The first VF of a PF, prepared for a guest and released again."""

    def __init__(self, pf: str, bridge: str) -> None:
        self.address = os.path.realpath(DEVICES / pf / "virtfn0").rpartition("/")[2]
        self.pf, self.bridge = pf, bridge
        self.port, representor = next(
            (name, port)
            for name, port in self._ports().items()
            if port.get("flavour") == "pcivf" and port["vfnum"] == 0 and name.startswith(f"pci/{pf}/")
        )
        self.representor: str = representor["netdev"]
        self.node = "pci_" + self.address.replace(":", "_").replace(".", "_")

    def xml(self) -> str:
        """A guest that has it as a plain <hostdev>."""
        domain, bus, rest = self.address.split(":")
        slot, _, function = rest.partition(".")
        place = {"domain": domain, "bus": bus, "slot": slot, "function": function}
        return DOMAIN.format(name=NAME, uuid=UUID, mac=MAC, vf=self.address, tag=TAG, **place)

    def by_hand(self) -> dict[str, Act]:
        """Prepare it by the manual's commands."""
        function = ["port", "function", "set", self.port, "hw_addr", MAC, "migratable", "enable"]
        ids = [f"external_ids:{key}={value}" for key, value in (("attached-mac", MAC), ("vm-id", UUID))]
        port = ["add-port", self.bridge, self.representor, f"tag={TAG}"]
        port += ["--", "set", "Interface", self.representor, *ids]
        return {
            "devlink": lambda: run("devlink", *function),
            "virsh": lambda: run("virsh", "-q", "nodedev-detach", self.node),
            "ovs-vsctl": lambda: run("ovs-vsctl", *port),
        }

    def undo_by_hand(self) -> None:
        """Release it by the manual's commands."""
        run("ovs-vsctl", "del-port", self.bridge, self.representor)
        run("virsh", "-q", "nodedev-reattach", self.node)

    def forget(self) -> None:
        """Remove what outlives a guest, so that the next turn starts with an unprepared VF."""
        if self.driver():
            (DEVICES / self.address / "driver" / "unbind").write_text(self.address)
        no_mac = "00:00:00:00:00:00"
        run("devlink", "port", "function", "set", self.port, "hw_addr", no_mac, "migratable", "disable")

    def driver(self) -> str:
        """Its driver, "" for none."""
        link = DEVICES / self.address / "driver"
        return os.path.realpath(link).rpartition("/")[2] if link.exists() else ""

    def state(self) -> dict[str, object]:
        """What matters to a guest."""
        function = self._ports()[self.port]["function"]
        tag = run("ovs-vsctl", "--if-exists", "get", "Port", self.representor, "tag").strip()
        mac, migratable = function["hw_addr"], function["migratable"]
        return {"driver": self.driver(), "mac": mac, "migratable": migratable, "tag": tag}

    def _ports(self) -> dict[str, Any]:
        ports: dict[str, Any] = json.loads(run("devlink", "-j", "port", "show"))["port"]
        return ports


def run(*command: str) -> str:
    """Run a command; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def main(pf: str, bridge: str, rounds: int, runs: int) -> None:
    """Measure and print."""
    vf = Vf(pf, bridge)
    daemon = Daemon(vf.xml())

    claim: dict[str, Act] = {
        "prepare": lambda: daemon.hook("prepare", "begin"),
        "start": lambda: daemon.hook("start", "begin"),
    }

    def unclaim() -> None:
        daemon.hook("stopped", "end")
        daemon.hook("release", "end", "shutdown")

    ways: Ways = {
        "vfmigrated": (claim, unclaim),
        "manual": (vf.by_hand(), vf.undo_by_hand),
    }
    # The first turn loads the VF's driver, which counts for neither.
    for part in vf.by_hand().values():
        part()
    vf.undo_by_hand()
    vf.forget()
    print(json.dumps([one_run(vf, ways, rounds) for _ in range(runs)]))


def one_run(vf: Vf, ways: Ways, rounds: int) -> dict[str, float]:
    """The median duration of each way and part in seconds; the first round of a run does not count."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    times.update({name: [] for parts, _ in ways.values() for name in parts})
    for _ in range(1 + rounds):
        states = []
        for name, (parts, undo) in ways.items():
            for part, act in parts.items():
                begun = time.perf_counter()
                act()
                times[part].append(time.perf_counter() - begun)
            times[name].append(sum(times[part][-1] for part in parts))
            states.append(vf.state())
            undo()
            vf.forget()
        if states[0] != states[1]:
            raise RuntimeError(f"the ways lead to different ends: {states}")
    return {name: statistics.median(each[1:]) for name, each in times.items()}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
