# SPDX-License-Identifier: GPL-2.0-or-later
"""A scenario that fails and leaves the worst behind: it shows that the next scenario passes all the same.

It runs only when named, before another one.
"""

from __future__ import annotations

from tests.testbed import fabric, terminal
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.provision import BRIDGE
from tests.testbed.report import Record

NAME = "planted-failure"
TIMEOUT_S = 300

ANSWER_S = 15
GUEST = Guest("left-guest", 99, (Nic(mac="52:54:00:00:42:63", vlan=42, number=99, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Leave host A with a guest and without its bridge and uplink, and host B with other firmware and frozen."""
    del record
    with terminal.step("guest with a VF is created on host A, and its bridge is removed"):
        lab.create_guest(lab.a, GUEST, paused=True)
        lab.a.run(f"ovs-vsctl --timeout=20 del-br {BRIDGE}")
    lab.b.run("printf %s 28.39.2048 > /sys/module/cx7sim/parameters/fw_running")
    fabric.vsctl("del-port", fabric.SWITCH, fabric.host_ports("a").uplink)
    lab.b.ask_monitor("stop")
    with terminal.step("host B, which is frozen, is asked for its uptime"):
        lab.b.run("uptime", timeout=ANSWER_S)
