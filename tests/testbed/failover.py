# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose VF is made a failover pair, and which half carries its traffic at which moment."""

from __future__ import annotations

import shlex
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import Optional

from tests.testbed import expect, facts
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.namespace import RUN
from tests.testbed.provision import BRIDGE
from tests.testbed.timeline import clock_offset

# Under two layers of emulation, a guest's driver needs this long for a VF.
JOIN_S = 240
# How many network devices with the MAC a guest with a pair has: both halves, and net_failover's.
DEVICES = 3

#: its kernel logs devices that are plugged in and unplugged
GUEST = Guest(
    "pair-guest",
    30,
    (Nic(mac="52:54:00:00:42:30", vlan=42, number=30, vf="0000:01:10.2"),),
    options="loglevel=7 printk.time=1",
)

# Prints the time and a VF's counter of sent frames whenever that has risen. Ends with its standard input.
WATCH = """
import select, sys, time
last = {}
while not select.select([sys.stdin], [], [], 0.03)[0]:
    for name in sys.argv[1:]:
        with open('/sys/class/net/' + name + '/statistics/rx_packets') as file:
            count = int(file.read())
        if last.setdefault(name, count) != count:
            print(time.time(), name, count, flush=True)
            last[name] = count
"""


def define(host: Host, guest: Guest) -> None:
    """Define a guest on a host."""
    guest.console.unlink(missing_ok=True)
    path = f"/run/{guest.name}.xml"
    host.write(path, guest.xml())
    host.run(f"virsh define {path}")


def start(lab: Lab, host: Host, guest: Guest, bridge: str = BRIDGE) -> None:
    """Define a guest, make a pair of its VF, start it, and wait until it uses its VF."""
    define(host, guest)
    vlan = guest.nics[0].vlan
    host.run(f"vfmigrate failover enable {guest.name} --standby-bridge {bridge} --vlan {vlan}")
    host.run(f"virsh start {guest.name}", timeout=JOIN_S)
    lab.await_boot(guest)
    await_whole(lab, guest, host)


def await_whole(lab: Lab, guest: Guest, host: Host) -> facts.Vf:
    """Wait until the guest has both halves of the pair, and the VF's port is in the bridge."""
    deadline = time.monotonic() + JOIN_S
    while devices(guest) != DEVICES or not port_of(lab, guest, host):
        if time.monotonic() > deadline:
            expect.plugged(lab, guest, host)
            raise expect.ScenarioError(
                f"{guest.name} has {devices(guest)} devices with its MAC on {host.hostname}, not {DEVICES}"
            )
        time.sleep(0.3)
    return expect.plugged(lab, guest, host)[guest.nics[0].mac]


def devices(guest: Guest) -> int:
    """How many network devices with its NIC's MAC the guest reported last."""
    return guest.nics_told().count(f"={guest.nics[0].mac}=")


def port_of(lab: Lab, guest: Guest, host: Host) -> Optional[str]:
    """The port of the guest's VF in the bridge, or None while it has none."""
    address = lab.vf_addresses(guest, host).get(guest.nics[0].mac)
    seen = facts.look(host)
    port = seen.vfs[address].representor if address in seen.vfs else None
    return port if port in seen.ports else None


def port_rows(host: Host) -> str:
    """The database rows of the bridge's ports: a port that was removed and added again has another row."""
    return host.run("ovs-vsctl --timeout=20 --columns=_uuid,name,tag list Port | sort")


def end(lab: Lab, guest: Guest, host: Host) -> None:
    """End the guest, and undefine it on the host where it was started."""
    lab.destroy(guest)
    host.run(f"virsh undefine {guest.name}")


@dataclass(frozen=True)
class Rise:
    """How many frames a VF has sent at a moment, in seconds of this machine's clock."""

    when: float
    representor: str
    frames: int


class Counters:
    """Watches the representors of a host: what is received there, a guest sent through its VF."""

    def __init__(self, host: Host) -> None:
        names = sorted(vf.representor for vf in facts.look(host).vfs.values())
        self._offset = clock_offset(host)
        self._process = subprocess.Popen(
            [
                *("ssh", "-F", str(RUN / "ssh.config"), host.hostname),
                shlex.join(["python3", "-c", WATCH, *names]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

        self._rises: list[Rise] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            when, name, frames = line.split()
            self._rises.append(Rise(float(when) - self._offset, name, int(frames)))

    def await_rise(self, representor: str, since: float) -> float:
        """Wait for frames from a VF after a moment; returns when the first came. Raises ScenarioError."""
        deadline = time.monotonic() + JOIN_S
        while not any(rise.representor == representor and rise.when >= since for rise in self._rises):
            expect.that(time.monotonic() < deadline, f"no frame came from the guest's VF at {representor}")
            time.sleep(0.1)
        return first_rise(self._rises, representor, since)

    def stop(self) -> list[Rise]:
        """Stop watching; returns what was seen, in order."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=30)
        self._reader.join()
        return self._rises


def first_rise(rises: list[Rise], representor: str, since: float) -> float:
    """The first moment after `since` at which frames came from the VF. Raises ScenarioError when none did."""
    moments = [rise.when for rise in rises if rise.representor == representor and rise.when >= since]
    expect.that(moments, f"no frame came from the guest's VF at {representor}")
    return moments[0]
