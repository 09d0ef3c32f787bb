# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with a VF in VLAN 42 migrates from A to B and back; the VF's address differs between the hosts."""

from __future__ import annotations

from tests.testbed import expect, terminal, timeline
from tests.testbed.guest import TRAVELLER as GUEST
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "vfio-vlan"
TIMEOUT_S = 360


def run(lab: Lab, record: Record) -> None:
    """Migrate there and back, and check both hosts after each migration."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("guest with a VF boots on host A"):
        lab.start_guest(lab.a, GUEST)
    there_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac]
    record.source_vf = there_vf.address
    record.source_vlan = nic.vlan
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer before the migration")
        with terminal.step("virsh migrate --live, A to B"):
            there = lab.migrate(GUEST, lab.a, lab.b)
        expect.migrated(there, GUEST)
        record.downtime_ms = there.downtime_ms
        expect.moved(lab, GUEST, lab.a, lab.b)
        vf = expect.plugged(lab, GUEST, lab.b)[nic.mac]
        record.destination_vf = vf.address
        record.destination_vlan = nic.vlan
        expect.that(
            vf.address != record.source_vf, f"the VF has the same address on both hosts: {vf.address}"
        )
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer on host B")
        expect.learned(GUEST, lab.b)
        record.events = timeline.collect(lab.hosts, there.began)
        with terminal.step("virsh migrate --live, B back to A"):
            back = lab.migrate(GUEST, lab.b, lab.a)
        expect.migrated(back, GUEST)
        expect.moved(lab, GUEST, lab.b, lab.a)
        expect.plugged(lab, GUEST, lab.a)
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer back on host A")
        record.measured["downtime_back_ms"] = back.downtime_ms
    finally:
        hearing = peer.stop()
    record.pings_sent = hearing.sent
    record.pings_lost = hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    terminal.timeline("A to B, milliseconds from the start of virsh migrate", record.events)
    lab.leave(GUEST)
