# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with two VFs in different VLANs migrates."""

from __future__ import annotations

from tests.testbed import expect, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "vfio-two-vfs"
TIMEOUT_S = 360

GUEST = Guest(
    "two-guest",
    5,
    (
        Nic(mac="52:54:00:00:42:05", vlan=42, number=15, vf="0000:01:10.4"),
        Nic(mac="52:54:00:00:43:05", vlan=43, number=15, vf="0000:01:10.2"),
    ),
)


def run(lab: Lab, record: Record) -> None:
    """Migrate to B; both VFs must migrate, each in its VLAN."""
    with terminal.step("guest with two VFs boots on host A"):
        lab.start_guest(lab.a, GUEST)
    source = expect.plugged(lab, GUEST, lab.a)
    peers = [Peer(nic.address) for nic in GUEST.nics]
    try:
        for peer, nic in zip(peers, GUEST.nics):
            expect.that(peer.await_answers(10, 30), f"the guest does not answer in VLAN {nic.vlan} on host A")
        with terminal.step("virsh migrate --live, A to B"):
            there = lab.migrate(GUEST, lab.a, lab.b)
        expect.migrated(there, GUEST)
        expect.moved(lab, GUEST, lab.a, lab.b)
        destination = expect.plugged(lab, GUEST, lab.b)
        for peer, nic in zip(peers, GUEST.nics):
            expect.that(peer.await_answers(10, 30), f"the guest does not answer in VLAN {nic.vlan} on host B")
    finally:
        hearings = [peer.stop() for peer in peers]
    expect.learned(GUEST, lab.b)
    for nic, hearing in zip(GUEST.nics, hearings):
        record.interfaces.append(
            {
                "mac": nic.mac,
                "source_vf": source[nic.mac].address,
                "destination_vf": destination[nic.mac].address,
                "vlan": nic.vlan,
                "pings_sent": hearing.sent,
                "pings_lost": hearing.lost,
                "longest_silence_ms": round(hearing.longest_silence_ms, 1),
            }
        )
    first = record.interfaces[0]
    record.mac = first["mac"]
    record.source_vf, record.destination_vf = first["source_vf"], first["destination_vf"]
    record.source_vlan = record.destination_vlan = first["vlan"]
    record.downtime_ms = there.downtime_ms
    record.pings_sent = sum(hearing.sent for hearing in hearings)
    record.pings_lost = sum(hearing.lost for hearing in hearings)
    record.longest_silence_ms = round(max(hearing.longest_silence_ms for hearing in hearings), 1)
    record.events = timeline.collect(lab.hosts, there.began)
    lab.destroy(GUEST)
