# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest migrates with its definition, live and offline; the definition boots on each host."""

from __future__ import annotations

import time

from tests.testbed import expect, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import GUEST_BOOT_S, Lab, vf_addresses
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "persistent"
TIMEOUT_S = 480

MENDED_S = 20

GUEST = Guest("kept-guest", 41, (Nic(mac="52:54:00:00:42:29", vlan=42, number=41, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Migrate to B with --persistent and boot there; go back to A with --offline and boot there."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    record.source_vlan = record.destination_vlan = nic.vlan
    lab.a.write(f"/root/{GUEST.name}.xml", GUEST.xml())
    lab.a.run(f"virsh define /root/{GUEST.name}.xml")
    try:
        with terminal.step("guest with a VF is defined and boots on host A"):
            boot(lab, lab.a)
        record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
        with terminal.step("virsh migrate --live --persistent --undefinesource, A to B"):
            there = lab.migrate(GUEST, lab.a, lab.b, "--persistent", "--undefinesource")
        expect.migrated(there, GUEST)
        record.downtime_ms = there.downtime_ms
        expect.moved(lab, GUEST, lab.a, lab.b)
        record.destination_vf = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
        expect.that(record.destination_vf != record.source_vf, "the VF has the same address on both hosts")
        record.events = timeline.collect(lab.hosts, there.began)
        record.measured["definition_mended_after_ms"] = await_definition(lab.b, record.destination_vf)
        expect.that(not is_defined(lab.a), "the guest is still defined on host A")
        with terminal.step("the guest is switched off, and boots on host B"):
            lab.b.run(f"virsh destroy {GUEST.name}")
            boot(lab, lab.b)
        hearing = answers(nic)
        record.pings_sent, record.pings_lost = hearing
        booted = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
        expect.that(booted == record.destination_vf, f"it booted with VF {booted}")
        lab.b.run(f"virsh destroy {GUEST.name}")
        with terminal.step("virsh migrate --offline --persistent --undefinesource, B to A; it boots there"):
            offline = "--offline --persistent --undefinesource"
            lab.b.run(f"virsh migrate {offline} {GUEST.name} qemu+tcp://{lab.a.hostname}/system")
            expect.that(not is_defined(lab.b), "the guest is still defined on host B")
            boot(lab, lab.a)
        answers(nic)
        record.measured["vf_after_offline"] = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    finally:
        for host in lab.hosts:
            host.result(f"virsh destroy {GUEST.name}; virsh undefine {GUEST.name}")


def boot(lab: Lab, host: Host) -> None:
    """Start the defined guest and wait until it runs."""
    GUEST.console.unlink(missing_ok=True)
    host.run(f"virsh start {GUEST.name}", timeout=GUEST_BOOT_S)
    lab.await_boot(GUEST)


def is_defined(host: Host) -> bool:
    """Whether a host has a definition of the guest."""
    return GUEST.name in host.run("virsh list --all --name").split()


def await_definition(host: Host, vf: str) -> float:
    """Wait until the guest's definition names a VF; returns how long that took, in ms."""
    began = time.monotonic()
    while True:
        named = vf_addresses(host.run(f"virsh dumpxml --inactive {GUEST.name}")).get(GUEST.nics[0].mac)
        if named == vf:
            return round((time.monotonic() - began) * 1000, 1)
        expect.that(time.monotonic() < began + MENDED_S, f"the definition names VF {named}, not {vf}")
        time.sleep(0.3)


def answers(nic: Nic) -> tuple[int, int]:
    """Expect the guest to answer the peer; returns how many pings were sent, and lost."""
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 60), "the guest does not answer the peer")
    finally:
        hearing = peer.stop()
    return hearing.sent, hearing.lost
