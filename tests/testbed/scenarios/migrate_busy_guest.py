# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest dirties memory faster than the link carries it: `vfmigrate migrate` cancels, or allows more downtime."""

from __future__ import annotations

import time

from tests.testbed import expect, migrate, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "migrate-busy-guest"
TIMEOUT_S = 480

REFUSED = 1
# MiB a second; the guest writes 24 MiB over and over, as fast as it can
BANDWIDTH = "4"
# ms: not enough for that, and more than enough
LITTLE, MUCH = "500", "20000"
# When the command must have decided: the first pass over the guest's memory, and some more.
PATIENCE_S = 120

GUEST = Guest(
    "busy-guest",
    22,
    (Nic(mac="52:54:00:00:42:22", vlan=42, number=32, vf="0000:01:10.2"),),
    churn_mib=24,
)


def run(lab: Lab, record: Record) -> None:
    """Migrate with too little allowed downtime, with enough, and back with a time limit that suspends the guest."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("guest that writes its memory boots on host A"):
        lab.start_guest(lab.a, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    record.source_vlan = record.destination_vlan = nic.vlan
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 60), "the guest does not answer the peer before the migration")
        give_up(lab, record)
        expect.that(peer.await_answers(10, 60), "the guest does not answer the peer after that")
        with terminal.step(f"vfmigrate migrate --max-downtime {MUCH}, A to B"):
            there = migrate.migrate(lab.a, GUEST, lab.b, "--bandwidth", BANDWIDTH, "--max-downtime", MUCH)
        expect.that(there.status == 0, f"vfmigrate migrate failed: {there.error}")
        expect.moved(lab, GUEST, lab.a, lab.b)
        record.destination_vf = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
        expect.that(peer.await_answers(10, 60), "the guest does not answer the peer on host B")
        record.events = timeline.collect(lab.hosts, there.began)
        with terminal.step("vfmigrate migrate --timeout 20 on a terminal, B back to A"):
            status, shown = migrate.on_terminal(
                lab.b, GUEST, lab.a, "--bandwidth", BANDWIDTH, "--max-downtime", MUCH, "--timeout", "20"
            )
        expect.that(status == 0, f"vfmigrate migrate failed: {shown}")
        expect.moved(lab, GUEST, lab.b, lab.a)
        expect.that(peer.await_answers(10, 60), "the guest does not answer the peer back on host A")
    finally:
        hearing = peer.stop()
    end, allowed = there.event("end"), there.event("downtime")
    expect.that(allowed is not None, "it migrated without more allowed downtime")
    record.downtime_ms = end["downtime_ms"] if end is not None else None
    record.measured["allowed_downtime_ms"] = allowed["downtime_ms"] if allowed is not None else None
    record.measured["took_ms"] = end["total_ms"] if end is not None else None
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    lab.destroy(GUEST)


def give_up(lab: Lab, record: Record) -> None:
    """With too little allowed downtime, the command must say why it cancels, and the guest must stay."""
    begun = time.monotonic()
    with terminal.step(f"vfmigrate migrate --max-downtime {LITTLE} is cancelled"):
        told = migrate.migrate(
            lab.a, GUEST, lab.b, "--unchecked", "--bandwidth", BANDWIDTH, "--max-downtime", LITTLE
        )
    took = time.monotonic() - begun
    record.measured.update(given_up_after_ms=round(took * 1000), message=told.error)
    terminal.console.print(f"after {took:.0f} s: [italic]{told.error}[/italic]", soft_wrap=True)
    expect.that(told.status == REFUSED, f"vfmigrate migrate ended with {told.status}: {told.error}")
    for words in (
        "does not converge",
        "--max-downtime",
        "--bandwidth",
        "--timeout",
        "runs on the source",
    ):
        expect.that(words in told.error, f"the message does not mention '{words}': {told.error}")
    expect.that(took <= PATIENCE_S, f"it took {took:.0f} s to cancel")
    expect.that(lab.running(GUEST, lab.a), "the guest does not run on host A any more")
    expect.plugged(lab, GUEST, lab.a)
    expect.that(not lab.running(GUEST, lab.b), "the guest is on host B")
