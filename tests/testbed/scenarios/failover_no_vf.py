# SPDX-License-Identifier: GPL-2.0-or-later
"""The destination has no free VF for a failover pair: refused before anything moves, and the pair stays whole."""

from __future__ import annotations

from tests.testbed import failover, terminal
from tests.testbed.guest import POOL, Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.report import Record
from tests.testbed.scenarios import failover_no_bridge, no_free_vf

NAME = "failover-no-vf"
TIMEOUT_S = 300

GUEST = Guest("pair-guest", 30, (Nic(mac="52:54:00:00:42:30", vlan=42, number=30, vf="0000:01:10.2"),))
HOLDER = no_free_vf.HOLDER


def run(lab: Lab, record: Record) -> None:
    """Fill B, try to migrate, and look at what became of the pair."""
    with terminal.step("guest with a failover pair boots on host A, another takes all VFs of host B"):
        lab.create_guest(lab.b, HOLDER, paused=True)
        failover.start(lab, lab.a, GUEST)
    failover_no_bridge.refused(lab, record, GUEST, names=(POOL, HOLDER.name))
    failover.end(lab, GUEST, lab.a)
    lab.destroy(HOLDER)
