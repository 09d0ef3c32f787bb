# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest is saved and restored: with its VF while that is free, with another one while another guest has it."""

from __future__ import annotations

import time

from tests.testbed import expect, facts, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import MIGRATION_S, Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "save-restore"
TIMEOUT_S = 300

SAVED = "/root/saved-guest.save"
GUEST = Guest("saved-guest", 45, (Nic(mac="52:54:00:00:42:2d", vlan=42, number=45, vf="0000:01:10.2"),))
# It gets the VF that the saved guest had.
OTHER = Guest("other-guest", 46, (Nic(mac="52:54:00:00:43:2e", vlan=43, number=46, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Save and restore on host A, first with the VF free, then with the VF taken."""
    host, nic = lab.a, GUEST.nics[0]
    record.mac = nic.mac
    record.source_vlan = record.destination_vlan = nic.vlan
    before = lab.look()
    with terminal.step("guest with a VF boots on host A"):
        lab.start_guest(host, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, host)[nic.mac].address
    # A guest that was saved before its driver had a link (igbvf asks the PF for it) was seen to stay without a link.
    answer(nic, record)
    try:
        for taken in (False, True):
            with terminal.step("virsh save"):
                host.run(f"virsh save {GUEST.name} {SAVED}", timeout=MIGRATION_S)
            left = lab.settle(before)[host.name]
            expect.that(facts.is_clean(left), f"the saved guest left something behind: {left}")
            if taken:
                lab.create_guest(host, OTHER, paused=True)
            ticks = GUEST.ticks()
            began = time.time()
            with terminal.step(f"virsh restore while the VF is {'taken' if taken else 'free'}"):
                host.run(f"virsh restore {SAVED}", timeout=MIGRATION_S)
                lab.await_life(GUEST)
            expect.that(GUEST.ticks() > ticks, "the guest booted instead of going on")
            restored = expect.plugged(lab, GUEST, host)[nic.mac].address
            expect.that((restored != record.source_vf) == taken, f"the guest was restored with VF {restored}")
            answer(nic, record)
    finally:
        host.run(f"rm -f {SAVED}")
    record.destination_vf = restored
    other = expect.plugged(lab, OTHER, host)[OTHER.nics[0].mac].address
    expect.that(other == record.source_vf, f"the other guest has VF {other}")
    record.events = timeline.collect(lab.hosts, began)
    lab.destroy(GUEST)
    lab.destroy(OTHER)


def answer(nic: Nic, record: Record) -> None:
    """Expect the guest to answer the peer, and count the pings."""
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(20, 60), "the guest does not answer the peer")
    finally:
        hearing = peer.stop()
    record.pings_sent += hearing.sent
    record.pings_lost += hearing.lost
