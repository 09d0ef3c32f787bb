# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with a failover pair migrates from A to B and back: by the standby meanwhile, by a VF on each host."""

from __future__ import annotations

from tests.testbed import expect, failover, terminal, timeline
from tests.testbed.failover import Counters
from tests.testbed.host import Host
from tests.testbed.lab import Lab, Migration
from tests.testbed.life import Life, expect_answers
from tests.testbed.peer import Hearing, Peer
from tests.testbed.report import Record

NAME = "failover"
TIMEOUT_S = 900

GUEST = failover.GUEST


def run(lab: Lab, record: Record) -> None:
    """Migrate there and back, and measure when the VF carries traffic again."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("guest with a failover pair boots on host A and takes its VF"):
        failover.start(lab, lab.a, GUEST)
    record.source_vf = lab.vf_addresses(GUEST, lab.a)[nic.mac]
    there, hearing = cross(lab, record, lab.a, lab.b, "there")
    record.destination_vf = lab.vf_addresses(GUEST, lab.b)[nic.mac]
    record.source_vlan = record.destination_vlan = nic.vlan
    record.downtime_ms = there.downtime_ms
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    record.events = timeline.collect(lab.hosts, there.began)
    terminal.timeline("A to B, milliseconds from the start of virsh migrate", record.events)
    back, _ = cross(lab, record, lab.b, lab.a, "back")
    record.measured["downtime_back_ms"] = back.downtime_ms
    failover.end(lab, GUEST, lab.a)


def cross(lab: Lab, record: Record, source: Host, destination: Host, way: str) -> tuple[Migration, Hearing]:
    """Migrate while the peer pings, until the VF on the destination carries the guest."""
    peer = Peer(GUEST.nics[0].address)
    counters = Counters(destination)
    life = Life(GUEST)
    try:
        expect.that(peer.await_answers(20, 60), f"the guest does not answer the peer on {source.hostname}")
        with terminal.step(f"virsh migrate --live, {source.hostname} to {destination.hostname}"):
            migration = lab.migrate(GUEST, source, destination)
        expect.migrated(migration, GUEST)
        expect.moved(lab, GUEST, source, destination)
        with terminal.step(f"the guest takes its VF on {destination.hostname}"):
            vf = failover.await_whole(lab, GUEST, destination)
            carried = counters.await_rise(vf.representor, migration.began) - migration.began
        expect.that(
            peer.await_answers(50, 60), f"the guest does not answer the peer on {destination.hostname}"
        )
    finally:
        counters.stop()
        idle = life.stop()
        hearing = peer.stop()
    expect.learned(GUEST, destination)
    silence = hearing.longest_silence_ms
    record.measured[way] = {
        "pings_sent": hearing.sent,
        "pings_lost": hearing.lost,
        "longest_silence_ms": round(silence, 1),
        "silence_began_ms": round((hearing.silence_began - migration.began) * 1000, 1),
        "guest_idle_ms": round(idle, 1),
        "migration_ms": migration.took_ms,
        "vf_carried_ms": round(carried * 1000, 1),
    }
    terminal.console.print(
        f"longest silence {silence:.0f} ms, {hearing.lost} of {hearing.sent} pings lost, "
        f"the VF carried again {carried * 1000:.0f} ms after the start of virsh migrate ({migration.took_ms:.0f} ms)"
    )
    expect_answers(silence, migration.downtime_ms or 0.0, idle)
    return migration, hearing
