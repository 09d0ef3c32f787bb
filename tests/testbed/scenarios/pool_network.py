# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest names the pool's libvirt network instead of a VF: libvirt chooses one on each host, here not the same."""

from __future__ import annotations

from tests.testbed import expect, terminal, timeline
from tests.testbed.guest import POOL, Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "pool-network"
TIMEOUT_S = 300

NETWORK = f"vfmigrate-{POOL}"
GUEST = Guest("net-guest", 42, (Nic(mac="52:54:00:00:42:2a", vlan=42, number=42, network=NETWORK),))
# It uses the first VF of the network on B, so that the guest gets another one there than on A.
FIRST = Guest("first-guest", 43, (Nic(mac="52:54:00:00:43:2b", vlan=43, number=43, network=NETWORK),))


def run(lab: Lab, record: Record) -> None:
    """Migrate to B and back to A."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    record.source_vlan = record.destination_vlan = nic.vlan
    with terminal.step("guest with a VF of the network boots on host A, another starts on host B"):
        lab.create_guest(lab.a, GUEST)
        lab.create_guest(lab.b, FIRST, paused=True)
        lab.await_boot(GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    taken = expect.plugged(lab, FIRST, lab.b)[FIRST.nics[0].mac].address
    expect.that(
        taken == record.source_vf, f"the network of host B gave {taken} first, that of host A another one"
    )
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer before the migration")
        with terminal.step("virsh migrate --live, A to B"):
            there = lab.migrate(GUEST, lab.a, lab.b)
        expect.migrated(there, GUEST)
        expect.moved(lab, GUEST, lab.a, lab.b)
        record.destination_vf = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
        expect.that(record.destination_vf != taken, "two guests have the same VF on host B")
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer on host B")
        expect.learned(GUEST, lab.b)
        record.events = timeline.collect(lab.hosts, there.began)
        with terminal.step("virsh migrate --live, B back to A"):
            back = lab.migrate(GUEST, lab.b, lab.a)
        expect.migrated(back, GUEST)
        expect.moved(lab, GUEST, lab.b, lab.a)
        expect.plugged(lab, GUEST, lab.a)
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer back on host A")
        expect.plugged(lab, FIRST, lab.b)
    finally:
        hearing = peer.stop()
    record.downtime_ms = there.downtime_ms
    record.measured["downtime_back_ms"] = back.downtime_ms
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    lab.destroy(GUEST)
    lab.destroy(FIRST)
