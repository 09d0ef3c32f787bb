# SPDX-License-Identifier: GPL-2.0-or-later
"""The destination lacks the bridge of a failover pair's standby: refused, and the pair is not changed."""

from __future__ import annotations

from collections.abc import Sequence

from tests.testbed import expect, facts, failover, terminal, timeline
from tests.testbed.failover import Counters
from tests.testbed.guest import Guest
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "failover-no-bridge"
TIMEOUT_S = 300

# The guest must answer throughout; on busy emulated hosts an answer can take this long.
HICCUP_MS = 2000
BRIDGE = "br-standby"

GUEST = failover.GUEST


def run(lab: Lab, record: Record) -> None:
    """Give the standby a bridge that only A has, try to migrate, and check the pair."""
    lab.a.run(f"ovs-vsctl --timeout=20 add-br {BRIDGE}")
    try:
        with terminal.step("guest whose standby is on a bridge that only host A has boots there"):
            failover.start(lab, lab.a, GUEST, BRIDGE)
        refused(lab, record, GUEST, names=(BRIDGE,))
        failover.end(lab, GUEST, lab.a)
    finally:
        lab.a.run(f"ovs-vsctl --timeout=20 --if-exists del-br {BRIDGE}")


def refused(lab: Lab, record: Record, guest: Guest, names: Sequence[str]) -> None:
    """Expect a migration from A to B to be refused with a message that has `names`, and nothing to have changed.

    The guest's VF must carry it throughout: its port is not taken away for a moment, and the guest has both halves.
    """
    nic = guest.nics[0]
    record.mac, record.source_vlan = nic.mac, nic.vlan
    record.source_vf = lab.vf_addresses(guest, lab.a)[nic.mac]
    before = (failover.port_rows(lab.a), facts.look(lab.a), lab.a.run(f"virsh dumpxml {guest.name}"))
    destination = facts.look(lab.b)
    peer = Peer(nic.address)
    counters = Counters(lab.a)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer before the attempt")
        with terminal.step("virsh migrate --live is refused"):
            attempt = lab.migrate(guest, lab.a, lab.b)
        expect.that(attempt.result.status != 0, "virsh migrate succeeded")
        expect.that(peer.await_answers(20, 30), "the guest does not answer the peer after the refusal")
    finally:
        rises = counters.stop()
        hearing = peer.stop()
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    record.events = timeline.collect(lab.hosts, attempt.began)
    told = " ".join(attempt.result.stderr.split())
    record.measured.update(refused_after_ms=round(attempt.took_ms, 1), message=told)
    terminal.console.print(
        f"virsh says after {attempt.took_ms:.0f} ms: [italic]{told}[/italic]", soft_wrap=True
    )
    for name in names:
        expect.that(name in told, f"the message does not name {name}: {told}")
    vf = failover.await_whole(lab, guest, lab.a)
    carried = failover.first_rise(rises, vf.representor, attempt.began + attempt.took_ms / 1000)
    record.measured["vf_carried_after_refusal_ms"] = round((carried - attempt.began) * 1000, 1)
    after = (failover.port_rows(lab.a), facts.look(lab.a), lab.a.run(f"virsh dumpxml {guest.name}"))
    for what, was, now in zip(("ports", "VFs and claims", "XML"), before, after):
        expect.that(was == now, f"the {what} of the guest on host A changed: {was} became {now}")
    expect.that(facts.look(lab.b) == destination, "the refusal left something on host B")
    expect.that(hearing.lost == 0, f"the peer lost {hearing.lost} of {hearing.sent} pings")
    wait = hearing.longest_wait_ms
    expect.that(wait <= HICCUP_MS, f"the guest gave no answer for {wait:.0f} ms")
