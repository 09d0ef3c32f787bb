# SPDX-License-Identifier: GPL-2.0-or-later
"""A failover pair is made in a running guest: the standby is plugged in, the VF is unplugged and plugged in again."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.testbed import expect, failover, terminal, timeline
from tests.testbed.failover import Counters
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.provision import BRIDGE
from tests.testbed.report import Record

NAME = "failover-live"
TIMEOUT_S = 900

GUEST = replace(failover.GUEST, name="live-guest", number=31, roomy=True)


def run(lab: Lab, record: Record) -> None:
    """Make the pair while the peer pings; the guest must use its VF afterwards, and migrate with the pair."""
    nic = GUEST.nics[0]
    record.mac, record.source_vlan = nic.mac, nic.vlan
    with terminal.step("guest with a VF boots on host A"):
        failover.define(lab.a, GUEST)
        lab.a.run(f"virsh start {GUEST.name}", timeout=failover.JOIN_S)
        lab.await_boot(GUEST)
    expect.plugged(lab, GUEST, lab.a)
    record.source_vf = lab.vf_addresses(GUEST, lab.a)[nic.mac]
    peer = Peer(nic.address)
    counters = Counters(lab.a)
    try:
        expect.that(peer.await_answers(20, 60), "the guest does not answer the peer")
        began = time.time()
        with terminal.step("vfmigrate failover enable --live"):
            told = lab.a.run(
                f"vfmigrate failover enable {GUEST.name} --standby-bridge {BRIDGE} --vlan {nic.vlan}"
                f" --live --wait {failover.JOIN_S}",
                timeout=3 * failover.JOIN_S,
            )
        expect.that("made the pair in running guest" in told, f"the command says: {told}")
        vf = failover.await_whole(lab, GUEST, lab.a)
        # it was the VF's already before the command
        record.measured["vf_carried_ms"] = round(
            (counters.await_rise(vf.representor, time.time()) - began) * 1000
        )
        expect.that(peer.await_answers(50, 60), "the guest does not answer the peer any more")
    finally:
        counters.stop()
        hearing = peer.stop()
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    record.events = timeline.collect(lab.hosts, began)
    terminal.timeline("milliseconds from the command's start", record.events)
    with terminal.step("virsh migrate --live with the pair, A to B"):
        migration = lab.migrate(GUEST, lab.a, lab.b)
    expect.migrated(migration, GUEST)
    expect.moved(lab, GUEST, lab.a, lab.b)
    record.destination_vf = failover.await_whole(lab, GUEST, lab.b).address
    failover.end(lab, GUEST, lab.a)
