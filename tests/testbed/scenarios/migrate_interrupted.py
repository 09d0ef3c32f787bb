# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate migrate` is interrupted by a signal and by Ctrl-C: the guest stays on the source and has its VF."""

from __future__ import annotations

import time

from tests.testbed import expect, facts, migrate, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import SETTLE_S, Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "migrate-interrupted"
TIMEOUT_S = 300

CANCELLED = 130
# MiB a second: slow enough to be interrupted
BANDWIDTH = "2"
# How long the guest may be silent during the interrupted migrations, on busy emulated hosts.
HICCUP_MS = 2000

GUEST = Guest("torn-guest", 21, (Nic(mac="52:54:00:00:42:21", vlan=42, number=31, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Interrupt it once by SIGINT and once by Ctrl-C."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("guest with a VF boots on host A"):
        lab.start_guest(lab.a, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    record.source_vlan = nic.vlan
    before = facts.look(lab.b)
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer before the migration")
        with terminal.step("vfmigrate migrate, A to B, gets SIGINT while memory is copied"):
            running = migrate.Running(lab.a, GUEST, lab.b, "--unchecked", "--bandwidth", BANDWIDTH)
            running.await_event("progress", iteration=1)
            asked = time.monotonic()
            running.interrupt()
            told = running.finish()
            record.measured["ended_after_ms"] = round((time.monotonic() - asked) * 1000)
        stayed(lab, told.status, told.error, before)
        expect.that(peer.await_answers(20, 30), "the guest does not answer the peer after the interruption")
        with terminal.step("vfmigrate migrate on a terminal, A to B, and Ctrl-C is pressed"):
            status, shown = migrate.on_terminal(
                lab.a, GUEST, lab.b, "--bandwidth", BANDWIDTH, press_at="pass 1"
            )
        stayed(lab, status, shown, before)
        expect.that(peer.await_answers(20, 30), "the guest does not answer the peer after Ctrl-C")
    finally:
        hearing = peer.stop()
    record.measured["message"] = told.error
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    record.events = timeline.collect(lab.hosts, told.began)
    silence = hearing.longest_silence_ms
    expect.that(silence <= HICCUP_MS, f"the guest was silent for {silence:.0f} ms")
    lab.destroy(GUEST)


def stayed(lab: Lab, status: int, told: str, before: facts.Facts) -> None:
    """Expect a cancelled migration: the guest on A with its VF, and nothing of it on B."""
    expect.that(status == CANCELLED, f"vfmigrate migrate ended with {status}: {told}")
    expect.that("the guest runs on the source" in told, f"it does not say where the guest is: {told}")
    expect.that(lab.running(GUEST, lab.a), "the guest does not run on host A any more")
    expect.that(not lab.running(GUEST, lab.b), "the guest is on host B as well")
    expect.plugged(lab, GUEST, lab.a)
    lab.await_life(GUEST)
    deadline = time.monotonic() + SETTLE_S
    while not facts.is_clean(facts.left_behind(before, facts.look(lab.b))):
        expect.that(time.monotonic() < deadline, "something of the guest was left on host B")
        time.sleep(0.3)
