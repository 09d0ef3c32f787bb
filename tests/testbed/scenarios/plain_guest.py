# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest without a VF migrates, and vfmigrate does nothing: no claim, no event, no metadata."""

from __future__ import annotations

from tests.testbed import expect, facts, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "plain-guest"
TIMEOUT_S = 300

GUEST = Guest("plain-guest", 6, (Nic(mac="52:54:00:00:42:06", vlan=42, number=16),))


def run(lab: Lab, record: Record) -> None:
    """Migrate to B, and look for anything that vfmigrate did."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    record.source_vlan = record.destination_vlan = nic.vlan
    with terminal.step("guest without a VF boots on host A"):
        lab.start_guest(lab.a, GUEST)
    before = {host.name: facts.look(host) for host in lab.hosts}
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer before the migration")
        with terminal.step("virsh migrate --live, A to B"):
            there = lab.migrate(GUEST, lab.a, lab.b)
        expect.migrated(there, GUEST)
        expect.moved(lab, GUEST, lab.a, lab.b)
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer on host B")
    finally:
        hearing = peer.stop()
    record.downtime_ms = there.downtime_ms
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    for host in lab.hosts:
        seen = facts.look(host)
        expect.that(not seen.claims, f"{host.hostname} has claims: {', '.join(sorted(seen.claims))}")
        expect.that(seen.vfs == before[host.name].vfs, f"a VF of {host.hostname} changed")
    xml = lab.b.run(f"virsh dumpxml {GUEST.name}")
    expect.that("vfmigrate" not in xml, "the guest's XML mentions vfmigrate")
    expect.that("<metadata" not in xml, "the guest got metadata")
    record.events = timeline.collect(lab.hosts, there.began)
    traces = [event for event in record.events if event.fields.get("domain") == GUEST.name]
    expect.that(
        not traces, f"vfmigrate logged about a guest without a VF: {traces[0].message if traces else ''}"
    )
    lab.destroy(GUEST)
