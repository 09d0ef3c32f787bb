# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with a bond of VF and virtio NIC migrates from A to B and back: the VF is unplugged and plugged in there."""

from __future__ import annotations

import re
from typing import Any, Optional

from tests.testbed import expect, migrate, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.life import Life, expect_answers
from tests.testbed.migrate import Told
from tests.testbed.peer import Hearing, Peer
from tests.testbed.report import Record

NAME = "replug-bond"
TIMEOUT_S = 480

# More frames through a VF's port than its driver sends when it starts.
CARRYING = 10
# How long the guest may take to use the VF after it was plugged in.
JOIN_S = 120

VF = Nic(mac="52:54:00:00:42:23", vlan=42, number=33, vf="0000:01:10.2")
OTHER = Nic(mac="52:54:00:00:42:24", vlan=42, number=34)
GUEST = Guest("bond-guest", 23, (VF, OTHER), bonded=True)

# Prints ten times a second how many frames came from each representor.
WATCH = """\
exec > /run/counters 2> /dev/null < /dev/null
while sleep 0.1; do date +%s.%N; grep -H . /sys/class/net/*/statistics/rx_packets; done
"""


def run(lab: Lab, record: Record) -> None:
    """Migrate by virsh, which is refused; then there, back, and interrupted."""
    record.mac = VF.mac
    record.source_vlan = record.destination_vlan = VF.vlan
    with terminal.step("guest with a bond over VF and virtio boots on host A"):
        lab.start_guest(lab.a, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[VF.mac].address
    expect.that(carries_by_vf(lab), "the guest's bond does not use its VF on host A")
    with terminal.step("plain virsh migrate is refused"):
        plain = lab.migrate(GUEST, lab.a, lab.b)
    told = " ".join(plain.result.stderr.split())
    expect.that(plain.result.status != 0, "virsh migrate succeeded with a VF that has to be unplugged")
    expect.that("vfmigrate migrate" in told, f"the refusal does not name the remedy: {told}")
    slot = guest_slot(lab.a)
    # once without vfmigrate check before it, once with it
    there = migrate_heard(lab, lab.a, lab.b, record, "there", "--unchecked")
    record.destination_vf = expect.plugged(lab, GUEST, lab.b)[VF.mac].address
    expect.that(guest_slot(lab.b) == slot, f"the guest sees its VF at {guest_slot(lab.b)}, not at {slot}")
    record.events = timeline.collect(lab.hosts, there.began)
    terminal.timeline("A to B, milliseconds from the start of vfmigrate migrate", record.events)
    migrate_heard(lab, lab.b, lab.a, record, "back")
    expect.that(guest_slot(lab.a) == slot, f"the guest sees its VF at {guest_slot(lab.a)}, not at {slot}")
    interrupt(lab)
    lab.destroy(GUEST)


def guest_slot(host: Host) -> Optional[str]:
    """The PCI address of the VF inside the guest."""
    xml = host.run(f"virsh dumpxml {GUEST.name}")
    device = re.search(rf"<interface type='hostdev'.*?{VF.mac}.*?</interface>", xml, re.DOTALL)
    slots = re.findall(r"<address type='pci' [^>]*>", device.group()) if device else []
    return slots[-1] if slots else None


def carries_by_vf(lab: Lab, timeout: float = JOIN_S) -> bool:
    """Whether the guest reports within a time limit that its VF is the active port of its bond."""
    before = GUEST.nics_told()
    for _ in range(int(timeout)):
        lab.await_life(GUEST)
        told = GUEST.nics_told()
        active = re.search(r" active=(\S+)", told)
        if told != before and active and f" {active.group(1)}={VF.mac}=" in told:
            return True
    return False


def migrate_heard(lab: Lab, source: Host, destination: Host, record: Record, way: str, *options: str) -> Told:
    """Migrate while the peer pings, and measure."""
    lab.on_both(
        lambda host: host.run(
            f"setsid sh -c '{WATCH}' > /dev/null 2>&1 < /dev/null & echo $! > /run/watch.pid"
        )
    )
    peer = Peer(VF.address)
    life = Life(GUEST)
    try:
        expect.that(peer.await_answers(20, 60), f"the guest does not answer the peer on {source.hostname}")
        with terminal.step(f"vfmigrate migrate, {source.hostname} to {destination.hostname}"):
            told = migrate.migrate(source, GUEST, destination, *options)
        expect.that(told.status == 0, f"vfmigrate migrate failed: {told.error}")
        expect.moved(lab, GUEST, source, destination)
        expect.that(carries_by_vf(lab), f"the guest's bond does not use its VF on {destination.hostname}")
        expect.that(
            peer.await_answers(20, 60), f"the guest does not answer the peer on {destination.hostname}"
        )
    finally:
        idle = life.stop()
        hearing = peer.stop()
        lab.on_both(lambda host: host.run("kill -- -$(cat /run/watch.pid)"))
    vf = expect.plugged(lab, GUEST, destination)[VF.mac]
    note(record, way, told, hearing, carrying(destination.run("cat /run/counters"), vf.representor or ""))
    end = told.event("end") or {}
    record.measured[way]["guest_idle_ms"] = round(idle, 1)
    expect_answers(hearing.longest_silence_ms, end.get("downtime_ms") or 0, idle)
    return told


def carrying(counters: str, representor: str) -> Optional[float]:
    """When frames of the guest came from this representor, in seconds of its host's clock."""
    now, first = 0.0, None
    for line in counters.splitlines():
        if re.fullmatch(r"\d+\.\d+", line):
            now = float(line)
        elif line.startswith(f"/sys/class/net/{representor}/"):
            text = line.rpartition(":")[2]
            if not text:
                continue  # cut off in the middle
            count = int(text)
            first = count if first is None else first
            if count >= first + CARRYING:
                return now
    return None


def note(record: Record, way: str, told: Told, hearing: Hearing, carried: Optional[float]) -> None:
    """Record what was measured on one way."""
    end: dict[str, Any] = told.event("end") or {}
    record.measured[way] = {
        "total_ms": end.get("total_ms"),
        "downtime_ms": end.get("downtime_ms"),
        "standstill_ms": end.get("standstill_ms"),
        "vf_away_ms": (end.get("away_ms") or {}).get(VF.mac),
        "unplugged_ms": told.at_ms("unplugged"),
        "plugged_ms": told.at_ms("plugged"),
        # by the destination's clock, which agrees with this machine's within milliseconds
        "vf_carries_ms": round((carried - told.began) * 1000, 1) if carried is not None else None,
        "pings_sent": hearing.sent,
        "pings_lost": hearing.lost,
        "longest_silence_ms": round(hearing.longest_silence_ms, 1),
        "silence_began_ms": round((hearing.silence_began - told.began) * 1000, 1),
    }
    record.downtime_ms = end.get("downtime_ms")
    record.pings_sent += hearing.sent
    record.pings_lost += hearing.lost
    record.longest_silence_ms = round(max(record.longest_silence_ms or 0.0, hearing.longest_silence_ms), 1)
    record.longest_wait_ms = round(max(record.longest_wait_ms or 0.0, hearing.longest_wait_ms), 1)
    terminal.console.print(f"{way}: {record.measured[way]}", soft_wrap=True)


def interrupt(lab: Lab) -> None:
    """Interrupt the command while the VF is unplugged: the guest gets it back on the source."""
    with terminal.step("vfmigrate migrate, A to B, gets SIGINT while the VF is unplugged"):
        running = migrate.Running(lab.a, GUEST, lab.b, "--unchecked", "--bandwidth", "2")
        running.await_event("progress")
        running.interrupt()
        told = running.finish()
    expect.that(told.status == 130, f"vfmigrate migrate ended with {told.status}: {told.error}")
    expect.that(lab.running(GUEST, lab.a), "the guest does not run on host A any more")
    expect.that(not lab.running(GUEST, lab.b), "the guest is on host B as well")
    expect.plugged(lab, GUEST, lab.a)
    expect.that(carries_by_vf(lab), "the guest's bond does not use its VF after the interruption")
