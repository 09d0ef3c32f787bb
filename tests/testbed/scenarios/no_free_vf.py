# SPDX-License-Identifier: GPL-2.0-or-later
"""The destination has no free VF: refused at once, with the pool and the guest that has its VFs."""

from __future__ import annotations

from tests.testbed import expect, terminal, timeline
from tests.testbed.guest import POOL, Guest, Nic
from tests.testbed.guest import TRAVELLER as GUEST
from tests.testbed.lab import Lab, Migration
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "no-free-vf"
FINDS = GUEST
TIMEOUT_S = 300

REFUSAL_MS = 1000
ATTEMPTS = 3
# The guest must answer throughout; on busy emulated hosts an answer can take this long.
HICCUP_MS = 2000

# It uses all VFs of B; it need not run for that.
HOLDER = Guest(
    "holder",
    4,
    tuple(
        Nic(mac=f"52:54:00:00:43:0{index}", vlan=43, number=20 + index, vf=f"0000:01:10.{2 * index}")
        for index in range(4)
    ),
)


def run(lab: Lab, record: Record) -> None:
    """Use up the VFs of B, try to migrate, and check the message and the guest."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("guest with a VF boots on host A, another takes all VFs of host B"):
        lab.create_guest(lab.b, HOLDER, paused=True)
        lab.find_guest(GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    record.source_vlan = nic.vlan
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer before the attempt")
        with terminal.step("virsh migrate --live is refused"):
            attempts = refusals(lab)
        expect.that(peer.await_answers(20, 30), "the guest does not answer the peer after the refusal")
    finally:
        hearing = peer.stop()
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    record.events = timeline.collect(lab.hosts, attempts[0].began)
    told = " ".join(attempts[0].result.stderr.split())
    times = [round(attempt.took_ms, 1) for attempt in attempts]
    took = min(times)
    record.measured.update(refused_after_ms=took, attempts_ms=times, message=told)
    terminal.console.print(f"virsh says after {took:.0f} ms: [italic]{told}[/italic]", soft_wrap=True)
    expect.that(
        f"'{POOL}'" in told or f" {POOL} " in told, f"the message does not name the pool {POOL}: {told}"
    )
    expect.that(HOLDER.name in told, f"the message does not name {HOLDER.name}, which uses the VFs: {told}")
    expect.that(took <= REFUSAL_MS, f"the refusal took {took:.0f} ms")
    expect.that(lab.running(GUEST, lab.a), "the guest no longer runs on host A")
    expect.plugged(lab, GUEST, lab.a)
    expect.that(hearing.lost == 0, f"the peer lost {hearing.lost} of {hearing.sent} pings")
    wait = hearing.longest_wait_ms
    expect.that(wait <= HICCUP_MS, f"the guest gave no answer for {wait:.0f} ms")
    lab.leave(GUEST)
    lab.destroy(HOLDER)


def refusals(lab: Lab) -> list[Migration]:
    """Try to migrate until the refusal comes in time, at most ATTEMPTS times: the first one has cold caches."""
    attempts: list[Migration] = []
    while len(attempts) < ATTEMPTS:
        attempt = lab.migrate(GUEST, lab.a, lab.b)
        expect.that(attempt.result.status != 0, "virsh migrate succeeded although host B has no free VF")
        attempts.append(attempt)
        if attempt.took_ms <= REFUSAL_MS:
            break
    return attempts
