# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that sends nothing unasked migrates while a peer beyond the switch pings it.

Once with the announce, which must keep the silence close to libvirt's downtime, and once without it for comparison.
"""

from __future__ import annotations

from typing import Optional

from tests.testbed import expect, fabric, product, terminal, timeline
from tests.testbed.guest import TRAVELLER as GUEST
from tests.testbed.host import Host
from tests.testbed.lab import Lab, Migration
from tests.testbed.peer import Hearing, Peer
from tests.testbed.report import Record

NAME = "vfio-quiet"
FINDS = GUEST
TIMEOUT_S = 300

# By how much the peer's silence may exceed libvirt's downtime.
ALLOWED_MS = 500
# How long the peer waits after the migration without the announce. It could take minutes.
UNANNOUNCED_S = 10


def run(lab: Lab, record: Record) -> None:
    """Migrate to B with the announce, and back without."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("quiet guest boots on host A"):
        lab.find_guest(GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    record.source_vlan = nic.vlan
    with terminal.step("virsh migrate --live, A to B, announced"):
        there, hearing, answered = migrate_heard(lab, lab.a, lab.b, patience=60)
    record.destination_vf = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
    record.destination_vlan = nic.vlan
    expect.that(answered, "the guest does not answer the peer on host B")
    expect.learned(GUEST, lab.b)
    record.downtime_ms = there.downtime_ms
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    record.measured["silence_began_ms"] = round((hearing.silence_began - there.began) * 1000, 1)
    record.events = timeline.collect(lab.hosts, there.began)
    terminal.timeline("A to B, milliseconds from the start of virsh migrate", record.events)
    unannounced(lab, record)
    lab.leave(GUEST)
    judge(record)


def migrate_heard(
    lab: Lab, source: Host, destination: Host, patience: float
) -> tuple[Migration, Hearing, bool]:
    """Migrate while the peer pings; wait `patience` seconds at most for answers from the destination.

    Returns whether they came.
    """
    peer = Peer(GUEST.nics[0].address)
    try:
        expect.that(peer.await_answers(20, 60), f"the guest does not answer the peer on {source.hostname}")
        migration = lab.migrate(GUEST, source, destination)
        expect.migrated(migration, GUEST)
        answered = peer.await_answers(50, patience)
    finally:
        hearing = peer.stop()
    expect.moved(lab, GUEST, source, destination)
    return migration, hearing, answered


def unannounced(lab: Lab, record: Record) -> None:
    """Migrate back with the announce switched off on the destination, for comparison."""
    product.set_announce(lab.a, on=False)
    try:
        with terminal.step("virsh migrate --live, B to A, not announced"):
            back, hearing, answered = migrate_heard(lab, lab.b, lab.a, patience=UNANNOUNCED_S)
    finally:
        product.set_announce(lab.a, on=True)
        fabric.forget()  # the next scenario need not wait until the switch learns the port
    record.measured["unannounced_silence_ms"] = round(hearing.longest_silence_ms, 1)
    # False: the guest was still silent when the peer stopped
    record.measured["unannounced_silence_ended"] = answered
    record.measured["unannounced_downtime_ms"] = back.downtime_ms


def judge(record: Record) -> None:
    """Compare the silence with libvirt's downtime."""
    silence: Optional[float] = record.longest_silence_ms
    downtime = record.downtime_ms
    if silence is None or downtime is None:
        raise expect.ScenarioError("libvirt reported no downtime")
    without = f"{record.measured['unannounced_silence_ms']:.0f} ms"
    if not record.measured["unannounced_silence_ended"]:
        without += " and more"
    terminal.console.print(
        f"longest silence {silence:.0f} ms with the announce, {without} without; libvirt's downtime {downtime:.0f} ms"
    )
    expect.that(
        silence <= downtime + ALLOWED_MS,
        f"the guest was silent for {silence:.0f} ms; libvirt's downtime was {downtime:.0f} ms",
    )
