# SPDX-License-Identifier: GPL-2.0-or-later
"""What scenarios with faults share: a migration slow enough to disturb it, and what must hold afterwards."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from tests.testbed import expect, facts, terminal
from tests.testbed.guest import Guest
from tests.testbed.host import Host
from tests.testbed.lab import Lab, Migration
from tests.testbed.peer import Peer
from tests.testbed.report import Record

# MiB/s, the minimum of libvirt: the guest's memory takes half a minute.
SLOW = 1
# MiB/s, more than the network between the hosts carries.
FAST = 1000
# ms of allowed downtime. The rest of the memory never fits into the least: such a migration does not converge.
LEAST_PAUSE = 1
USUAL_PAUSE = 300
UNDER_WAY_S = 150
# How long such a migration may take in all.
SLOW_S = 300
# How long libvirt may take to notice that the other side is gone, and to roll back.
ROLLED_BACK_S = 60


@dataclass
class UnderWay:
    """A migration that runs while the scenario does something else."""

    lab: Lab
    guest: Guest
    source: Host
    destination: Host
    job: Future[Migration]

    def await_copying(self) -> None:
        """Wait until libvirt on the source copies the guest's memory: the destination is prepared then."""
        self._await("Memory processed")

    def await_iteration(self, number: int) -> None:
        """Wait until all of the memory was copied, and what changed meanwhile `number` times more."""
        self._await("Iteration", number + 1)

    def _await(self, figure: str, least: int = 0) -> None:
        deadline = time.monotonic() + UNDER_WAY_S
        while True:
            expect.that(not self.job.done(), "the migration was over before anything went wrong")
            told = self.source.result(f"virsh domjobinfo {self.guest.name}").stdout
            found = re.search(rf"^{figure}:\s+([0-9.]+)", told, re.MULTILINE)
            if found and float(found.group(1)) >= least:
                return
            expect.that(time.monotonic() < deadline, f"the migration did not reach '{figure}' {least}")
            time.sleep(0.2)

    def cancel(self) -> None:
        """Cancel it as an administrator does."""
        self.source.run(f"virsh domjobabort {self.guest.name}")

    def outcome(self) -> Migration:
        """Wait until it ends; returns how it ended."""
        return self.job.result()


@contextmanager
def slow_migration(
    lab: Lab, guest: Guest, source: Host, destination: Host, *, endless: bool = False
) -> Iterator[UnderWay]:
    """A migration at the least speed; with `endless`, one that cannot converge. The block waits for its end."""
    source.run(f"virsh migrate-setspeed {guest.name} {SLOW}")
    if endless:
        source.run(f"virsh migrate-setmaxdowntime {guest.name} {LEAST_PAUSE}")
    with ThreadPoolExecutor(1) as lane:
        job = lane.submit(lab.migrate, guest, source, destination, timeout=SLOW_S)
        yield UnderWay(lab, guest, source, destination, job)


def full_speed(guest: Guest, host: Host) -> None:
    """Let the guest migrate at full speed again."""
    host.run(f"virsh migrate-setspeed {guest.name} {FAST}")
    host.run(f"virsh migrate-setmaxdowntime {guest.name} {USUAL_PAUSE}")


def failed(migration: Migration, *words: str) -> str:
    """Expect virsh to have failed with these words; returns what it said."""
    told = " ".join(migration.result.stderr.split())
    expect.that(migration.result.status != 0, "virsh migrate succeeded, and it must fail")
    for word in words:
        expect.that(word in told, f"the message does not mention '{word}': {told}")
    return told


def stayed(lab: Lab, guest: Guest, home: Host, other: Host, before: facts.Facts) -> None:
    """Expect the guest to run on `home` only, and the other host, reconciled once, to be as it was before."""
    deadline = time.monotonic() + ROLLED_BACK_S
    while lab.running(guest, other):
        expect.that(time.monotonic() < deadline, f"{guest.name} is on {other.hostname} as well")
        time.sleep(0.5)
    expect.that(lab.running(guest, home), f"{guest.name} does not run on {home.hostname} any more")
    while (state := home.run(f"virsh domstate {guest.name}").strip()) != "running":
        expect.that(time.monotonic() < deadline, f"{guest.name} is {state} on {home.hostname}")
        time.sleep(0.5)
    lab.await_life(guest)
    for host in lab.hosts:
        host.run("vfmigrate reconcile")
    expect.plugged(lab, guest, home)
    left = facts.left_behind(before, facts.look(other))
    told = "; ".join(f"{kind} {', '.join(items)}" for kind, items in left.items() if items)
    expect.that(not told, f"{other.hostname} is not as it was before: {told}")


@contextmanager
def heard(record: Record, guest: Guest) -> Iterator[Peer]:
    """A peer pings the guest's first NIC during the block, once that answers; what it heard is recorded."""
    peer = Peer(guest.nics[0].address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer at the beginning")
        yield peer
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer at the end")
    finally:
        hearing = peer.stop()
        record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
        record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
        record.longest_wait_ms = round(hearing.longest_wait_ms, 1)


def at_home(lab: Lab, record: Record, guest: Guest) -> None:
    """Boot the guest on host A, and record where it is."""
    nic = guest.nics[0]
    with terminal.step("guest with a VF boots on host A"):
        lab.start_guest(lab.a, guest)
    record.mac, record.source_vlan = nic.mac, nic.vlan
    record.source_vf = expect.plugged(lab, guest, lab.a)[nic.mac].address


def arrives(lab: Lab, record: Record, guest: Guest) -> None:
    """Expect a plain migration from A to B to succeed after what went wrong; the guest stays on B."""
    nic = guest.nics[0]
    full_speed(guest, lab.a)
    with terminal.step("virsh migrate --live, A to B, without a fault"):
        there = lab.migrate(guest, lab.a, lab.b)
    expect.migrated(there, guest)
    expect.moved(lab, guest, lab.a, lab.b)
    record.downtime_ms = there.downtime_ms
    record.destination_vf = expect.plugged(lab, guest, lab.b)[nic.mac].address
    record.destination_vlan = nic.vlan
