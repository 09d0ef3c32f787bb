# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration is cancelled as soon as memory is being copied: the guest is not affected, and host B is as before."""

from __future__ import annotations

from tests.testbed import facts, faults, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.report import Record

NAME = "cancel-early"
TIMEOUT_S = 500

GUEST = Guest("early-guest", 40, (Nic(mac="52:54:00:00:42:40", vlan=42, number=40, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Cancel a migration early, then let one succeed."""
    faults.at_home(lab, record, GUEST)
    before = facts.look(lab.b)
    with faults.heard(record, GUEST):
        with terminal.step("virsh migrate, and virsh domjobabort when the first memory is copied"):
            with faults.slow_migration(lab, GUEST, lab.a, lab.b) as under_way:
                under_way.await_copying()
                under_way.cancel()
            attempt = under_way.outcome()
        record.measured["message"] = faults.failed(attempt, "canceled by client")
        faults.stayed(lab, GUEST, lab.a, lab.b, before)
        record.events = timeline.collect(lab.hosts, attempt.began)
        faults.arrives(lab, record, GUEST)
    lab.destroy(GUEST)
