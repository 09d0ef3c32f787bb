# SPDX-License-Identifier: GPL-2.0-or-later
"""The destination's card runs another firmware: the migration is refused at once, and succeeds with the same firmware.

A parameter of the module cx7sim sets the firmware version of the card of host B, which devlink then reports.
"""

from __future__ import annotations

import json
import time

from tests.testbed import expect, facts, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import PF, Host
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "incompatible-firmware"
TIMEOUT_S = 240

OTHER_FIRMWARE = "28.39.2048"
PARAMETER = "/sys/module/cx7sim/parameters/fw_running"
STAMPED_S = 20

GUEST = Guest("firm-guest", 40, (Nic(mac="52:54:00:00:42:28", vlan=42, number=40, vf="0000:01:10.2"),))


def firmware(host: Host) -> str:
    """The running firmware of a host's card, as devlink reports it."""
    told = json.loads(host.run(f"devlink -j dev info pci/{PF}"))
    return str(told["info"][f"pci/{PF}"]["versions"]["running"]["fw.version"])


def set_firmware(host: Host, version: str) -> None:
    """Have a host's card run another firmware."""
    host.run(f"printf %s {version} > {PARAMETER}")


def await_stamp(host: Host) -> None:
    """Wait until the guest's metadata has the firmware version of its card."""
    deadline = time.monotonic() + STAMPED_S
    while f"firmware='{firmware(host)}'" not in host.run(f"virsh dumpxml {GUEST.name}").replace('"', "'"):
        expect.that(
            time.monotonic() < deadline, "the guest's metadata does not have the card's firmware version"
        )
        time.sleep(0.5)


def run(lab: Lab, record: Record) -> None:
    """Try to migrate to another firmware, then migrate to the same."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("guest with a VF boots on host A"):
        lab.start_guest(lab.a, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    record.source_vlan = nic.vlan
    await_stamp(lab.a)
    here, own = firmware(lab.a), firmware(lab.b)
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer before the attempt")
        set_firmware(lab.b, OTHER_FIRMWARE)
        try:
            there = firmware(lab.b)
            expect.that(there != here, f"both cards run firmware {here}")
            before = facts.look(lab.b)
            with terminal.step(f"virsh migrate --live to a card with firmware {there} is refused"):
                refused = lab.migrate(GUEST, lab.a, lab.b)
            after = facts.look(lab.b)
        finally:
            set_firmware(lab.b, own)
        expect.that(refused.result.status != 0, f"the guest migrated from firmware {here} to {there}")
        expect.that(after == before, "host B changed although the migration was refused")
        expect.that(lab.running(GUEST, lab.a), "the guest no longer runs on host A")
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer after the refusal")
        with terminal.step("virsh migrate --live, A to B, with the same firmware"):
            migration = lab.migrate(GUEST, lab.a, lab.b)
        expect.migrated(migration, GUEST)
        expect.moved(lab, GUEST, lab.a, lab.b)
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer on host B")
    finally:
        hearing = peer.stop()
    record.destination_vf = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
    record.destination_vlan = nic.vlan
    record.downtime_ms = migration.downtime_ms
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.longest_wait_ms = round(hearing.longest_wait_ms, 1)
    record.events = timeline.collect(lab.hosts, refused.began)
    told = " ".join(refused.result.stderr.split())
    record.measured.update(firmware_a=here, firmware_b=there, refused_after_ms=refused.took_ms, message=told)
    terminal.console.print(f"virsh says: [italic]{told}[/italic]", soft_wrap=True)
    for version in (here, there):
        expect.that(version in told, f"the message does not name {version}: {told}")
    lab.destroy(GUEST)
