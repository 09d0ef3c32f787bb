# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration that cannot converge, for lack of bandwidth, is cancelled after all of the memory was copied once."""

from __future__ import annotations

from tests.testbed import facts, faults, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.report import Record

NAME = "cancel-late"
TIMEOUT_S = 500

ITERATIONS = 3
GUEST = Guest("late-guest", 41, (Nic(mac="52:54:00:00:42:41", vlan=42, number=41, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Cancel a migration late, then let one succeed."""
    faults.at_home(lab, record, GUEST)
    before = facts.look(lab.b)
    with faults.heard(record, GUEST):
        with terminal.step("virsh migrate that cannot end, and virsh domjobabort"):
            with faults.slow_migration(lab, GUEST, lab.a, lab.b, endless=True) as under_way:
                under_way.await_copying()
                under_way.await_iteration(ITERATIONS)
                under_way.cancel()
            attempt = under_way.outcome()
        record.measured["message"] = faults.failed(attempt, "canceled by client")
        record.measured["cancelled_after_ms"] = round(attempt.took_ms)
        faults.stayed(lab, GUEST, lab.a, lab.b, before)
        record.events = timeline.collect(lab.hosts, attempt.began)
        faults.arrives(lab, record, GUEST)
    lab.destroy(GUEST)
