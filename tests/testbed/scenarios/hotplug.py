# SPDX-License-Identifier: GPL-2.0-or-later
"""A VF is plugged into a running guest, migrates with it, and is unplugged on the other host."""

from __future__ import annotations

import time
from typing import Callable

from tests.testbed import expect, facts, terminal, timeline
from tests.testbed.expect import ScenarioError
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab, vf_addresses
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "hotplug"
TIMEOUT_S = 300

# Well below the daemon's reconcile_interval: libvirt's events must trigger it, not the interval.
PROMPT_S = 15
UNPLUG_S = 60

NIC = Nic(mac="52:54:00:00:42:2c", vlan=42, number=44, vf="0000:01:10.2")
BARE = Guest("plug-guest", 44, later=(NIC,))
PLUGGED = Guest("plug-guest", 44, (NIC,))


def run(lab: Lab, record: Record) -> None:
    """Plug in on A, migrate to B, unplug on B."""
    record.mac = NIC.mac
    record.source_vf = NIC.vf
    record.source_vlan = record.destination_vlan = NIC.vlan
    with terminal.step("guest without a NIC boots on host A"):
        lab.start_guest(lab.a, BARE)
    empty = {host.name: facts.look(host) for host in lab.hosts}
    with terminal.step("virsh attach-device --live on host A"):
        device(lab.a, "attach", NIC)
        took = await_quietly(lambda: expect.plugged(lab, PLUGGED, lab.a), PROMPT_S)
        record.measured["plugged_after_ms"] = took
        await_quietly(
            lambda: expect.that("psid=" in domain(lab.a), "the metadata has no PSID for the VF"), PROMPT_S
        )
    peer = Peer(NIC.address)
    try:
        expect.that(peer.await_answers(10, 60), "the guest does not answer the peer by its new NIC")
        with terminal.step("virsh migrate --live, A to B"):
            there = lab.migrate(PLUGGED, lab.a, lab.b)
        expect.migrated(there, PLUGGED)
        expect.moved(lab, PLUGGED, lab.a, lab.b)
        vf = expect.plugged(lab, PLUGGED, lab.b)[NIC.mac].address
        record.destination_vf = vf
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer on host B")
        expect.learned(PLUGGED, lab.b)
    finally:
        hearing = peer.stop()
    record.downtime_ms = there.downtime_ms
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    with terminal.step("virsh detach-device --live on host B"):
        device(lab.b, "detach", Nic(NIC.mac, NIC.vlan, NIC.number, vf))
        await_quietly(
            lambda: expect.that(not vf_addresses(domain(lab.b)), "the guest does not release the VF"),
            UNPLUG_S,
        )
        took = await_quietly(lambda: as_before(lab.b, empty[lab.b.name]), PROMPT_S)
        record.measured["given_back_after_ms"] = took
    lab.await_life(PLUGGED)
    record.events = timeline.collect(lab.hosts, there.began)
    lab.destroy(PLUGGED)


def device(host: Host, verb: str, nic: Nic) -> None:
    """Plug a NIC into the running guest, or unplug it."""
    host.write("/root/nic.xml", nic.xml())
    host.run(f"virsh {verb}-device {PLUGGED.name} /root/nic.xml --live", timeout=60)


def domain(host: Host) -> str:
    """The guest's XML as it runs."""
    return host.run(f"virsh dumpxml {PLUGGED.name}")


def as_before(host: Host, before: facts.Facts) -> None:
    """Expect a host to be as it was: no claim, no port, no MAC."""
    changed = facts.left_behind(before, facts.look(host))
    expect.that(facts.is_clean(changed), f"the unplugged VF is not free again: {changed}")


def await_quietly(check: Callable[[], object], seconds: float) -> float:
    """Wait until a check passes; returns how long that took, in ms. Raises what the last one raised."""
    began = time.monotonic()
    while True:
        try:
            check()
        except ScenarioError:
            if time.monotonic() > began + seconds:
                raise
            time.sleep(0.3)
        else:
            return round((time.monotonic() - began) * 1000, 1)
