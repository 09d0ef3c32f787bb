# SPDX-License-Identifier: GPL-2.0-or-later
"""The destination has no free VF for a failover pair: refused at once, and the pair is not changed."""

from __future__ import annotations

from tests.testbed import failover, terminal
from tests.testbed.guest import POOL
from tests.testbed.lab import Lab
from tests.testbed.report import Record
from tests.testbed.scenarios import failover_no_bridge, no_free_vf

NAME = "failover-no-vf"
TIMEOUT_S = 300

GUEST = failover.GUEST
HOLDER = no_free_vf.HOLDER


def run(lab: Lab, record: Record) -> None:
    """Use up the VFs of B, try to migrate, and check the pair."""
    with terminal.step("guest with a failover pair boots on host A, another takes all VFs of host B"):
        lab.create_guest(lab.b, HOLDER, paused=True)
        failover.start(lab, lab.a, GUEST)
    failover_no_bridge.refused(lab, record, GUEST, names=(POOL, HOLDER.name))
    failover.end(lab, GUEST, lab.a)
    lab.destroy(HOLDER)
