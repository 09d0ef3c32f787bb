# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages are upgraded on both hosts during a migration, which succeeds."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from tests.testbed import expect, product, services, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab, Migration
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "rpm-upgrade"
TIMEOUT_S = 600

# It dirties memory faster than SPEED carries it, so that the migration does not end before both hosts are upgraded.
GUEST = Guest(
    "upgrade-guest",
    8,
    (Nic(mac="52:54:00:00:42:08", vlan=42, number=18, vf="0000:01:10.2"),),
    churn_mib=4,
)

# MiB/s: the minimum of libvirt, and more than the link between the hosts carries.
SPEED, FULL_SPEED = 1, 10000
# ms: an allowed downtime in which the rest of the memory can be copied.
PAUSE_MS = 5000
UNDER_WAY_S = 60
MIGRATION_S = 400


def run(lab: Lab, record: Record) -> None:
    """Start a slow migration and upgrade the hosts meanwhile, the destination first."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("newer packages; guest with a VF boots on host A"):
        product.stage_newer()
        lab.start_guest(lab.a, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    record.source_vlan = nic.vlan
    lab.a.run(f"virsh migrate-setspeed {GUEST.name} {SPEED}")
    before = {host.name: services.look(host, GUEST) for host in lab.hosts}
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer before the migration")
        with ThreadPoolExecutor(1) as lane:
            job = lane.submit(lab.migrate, GUEST, lab.a, lab.b, timeout=MIGRATION_S)
            try:
                upgrade_both(lab, job)
            except BaseException:
                lab.a.result(f"virsh domjobabort {GUEST.name}")  # it would never end
                raise
            with terminal.step("virsh migrate --live, A to B, ends"):
                there = job.result()
        expect.migrated(there, GUEST)
        expect.moved(lab, GUEST, lab.a, lab.b)
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer on host B")
    finally:
        hearing = peer.stop()
    for host in lab.hosts:
        upgraded(host, before[host.name], services.look(host, GUEST))
    record.destination_vf = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
    record.destination_vlan = nic.vlan
    expect.learned(GUEST, lab.b)
    record.downtime_ms = there.downtime_ms
    record.events = timeline.collect(lab.hosts, there.began)
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    lab.destroy(GUEST)


def upgrade_both(lab: Lab, migration: Future[Migration]) -> None:
    """Upgrade both hosts while the guest's memory is copied, and then let the migration end."""
    await_copying(lab)
    for host in (lab.b, lab.a):
        with terminal.step(f"rpm -U on {host.hostname} while the guest's memory is copied"):
            product.upgrade(host)
        expect.that(not migration.done(), f"the migration was over before {host.hostname}'s upgrade was")
    lab.a.run(f"virsh migrate-setmaxdowntime {GUEST.name} {PAUSE_MS}")
    lab.a.run(f"virsh migrate-setspeed {GUEST.name} {FULL_SPEED}")


def upgraded(host: Host, before: services.Services, after: services.Services) -> None:
    """Expect a new daemon, and the same libvirtd and socket."""
    expect.that(after.libvirtd == before.libvirtd, f"libvirtd on {host.hostname} was restarted")
    expect.that(after.daemon != before.daemon, f"vfmigrated on {host.hostname} was not restarted")
    expect.that(after.socket == before.socket, f"vfmigrated's socket on {host.hostname} stopped listening")


def await_copying(lab: Lab) -> None:
    """Wait until libvirt on the source copies the guest's memory."""
    deadline = time.monotonic() + UNDER_WAY_S
    while "Memory processed" not in lab.a.run(f"virsh domjobinfo {GUEST.name}"):
        expect.that(time.monotonic() < deadline, "the migration did not begin to copy memory")
        time.sleep(0.2)
