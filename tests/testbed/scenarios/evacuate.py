# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate evacuate` moves six guests with a VF each from A to B, several at once, and back one after the other.

At most four VFs of a card migrate at the same time: this is checked in the daemons' log, and in the claims and
libvirt's jobs that were seen on both hosts meanwhile.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.testbed import expect, facts, terminal, timeline
from tests.testbed.guest import POOL, Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.provision import VFS
from tests.testbed.report import Record
from tests.testbed.timeline import Event

NAME = "evacuate"
TIMEOUT_S = 2400

LIMIT = 4
#: as many as the emulated card has
MORE_VFS = 7
#: how many times faster several at once must be than one after the other
FASTER = 1.5
#: MiB a second for each guest, as an administrator would limit them on a slow link. Without a limit, the processors of
#: the emulated hosts limit the migrations, and several at once are no faster.
BANDWIDTH = 2

CONFIG = "/etc/vfmigrate/vfmigrate.conf.d/more-vfs.conf"
COMMAND_S = 500

NETWORK = f"vfmigrate-{POOL}"
GUESTS = [
    Guest(
        f"guest-{number}",
        40 + number,
        (Nic(mac=f"52:54:00:00:42:4{number}", vlan=42, number=60 + number, network=NETWORK),),
    )
    for number in range(6)
]
WATCHED = GUESTS[0]

JOBS = "; ".join(f"domjobinfo {guest.name}" for guest in GUESTS)
#: prints every second how many guests libvirt migrates away, and how many claims belong to guests that arrive
WATCH = f"""\
while [ -e /run/watch ]; do
    leaving=$(virsh --readonly '{JOBS}' 2> /dev/null | grep -c Unbounded)
    coming=$(cat /run/vfmigrate/claims/*.json 2> /dev/null | grep -o '"incoming": true' | wc -l)
    echo $leaving $coming
    sleep 1
done
"""


@dataclass
class Seen:
    """What was seen on a host, one number a second: guests that leave, and claims of guests that arrive."""

    leaving: list[int] = field(default_factory=list)
    coming: list[int] = field(default_factory=list)


def run(lab: Lab, record: Record) -> None:
    """Evacuate A, several guests at once; then B, one after the other."""
    with terminal.step(f"{MORE_VFS} VFs are provisioned instead of {VFS}"):
        lab.on_both(lambda host: configure(host, MORE_VFS))
    try:
        with terminal.step("six guests with a VF each boot on host A"):
            start(lab)
        evacuations(lab, record)
    finally:
        clear(lab)
        lab.on_both(lambda host: configure(host, 0))


def configure(host: Host, vfs: int) -> None:
    """Set the number of VFs of the pool; 0 is the usual number."""
    if vfs:
        host.write(CONFIG, f"[pool {POOL}]\nvfs = {vfs}\n")
    else:
        host.run(f"rm -f {CONFIG}")
    host.run("systemctl restart vfmigrated.service && vfmigrate provision", timeout=180)


def start(lab: Lab) -> None:
    """Define and start the guests. Each but the first gets its VF by `vfmigrate attach`.

    They boot one after the other, which takes less time than all at once.
    """
    for guest in GUESTS:
        (nic,) = guest.nics
        guest.console.unlink(missing_ok=True)
        xml = guest.xml()
        if guest is not WATCHED:
            begin, end = xml.index("  <metadata>"), xml.index("  <memory")
            xml = (xml[:begin] + xml[end:]).replace(nic.xml(), "")
        lab.a.write(f"/root/{guest.name}.xml", xml)
        attach = f"vfmigrate attach {guest.name} --pool {POOL} --mac {nic.mac} --vlan {nic.vlan}"
        commands = [f"virsh define /root/{guest.name}.xml", *([attach] if guest is not WATCHED else [])]
        lab.a.run(" && ".join([*commands, f"virsh start {guest.name}"]), timeout=180)
        lab.await_boot(guest)
        expect.plugged(lab, guest, lab.a)


def evacuations(lab: Lab, record: Record) -> None:
    """Evacuate both ways, and compare."""
    record.mac, record.source_vlan = WATCHED.nics[0].mac, WATCHED.nics[0].vlan
    record.source_vf = expect.plugged(lab, WATCHED, lab.a)[WATCHED.nics[0].mac].address
    plan = evacuate(lab.a, lab.b, "--dry-run")[-1]
    expect.that(len(plan["guests"]) == len(GUESTS), f"the plan has {len(plan['guests'])} guests")
    expect.that(
        all(each["destination"] == lab.b.hostname for each in plan["guests"]), f"not all are to move: {plan}"
    )
    for guest in GUESTS:
        expect.that(lab.running(guest, lab.a), f"--dry-run moved {guest.name}")
    peer = Peer(WATCHED.nics[0].address)
    try:
        expect.that(peer.await_answers(10, 60), "the guest does not answer on host A")
        with terminal.step("vfmigrate evacuate, A to B, several at once"):
            together, most = timed(lab, lab.a, lab.b, "--jobs", "6")
        expect.that(peer.await_answers(10, 90), "the guest does not answer on host B")
    finally:
        hearing = peer.stop()
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    record.destination_vf = expect.plugged(lab, WATCHED, lab.b)[WATCHED.nics[0].mac].address
    record.destination_vlan = WATCHED.nics[0].vlan
    with terminal.step("vfmigrate evacuate --jobs 1, B to A, one after the other"):
        apart, _ = timed(lab, lab.b, lab.a, "--jobs", "1")
    record.measured.update(
        together_s=together, one_by_one_s=apart, faster=round(apart / together, 2), most=most
    )
    terminal.console.print(
        f"six guests: {together:.0f} s at once, {apart:.0f} s one by one, {apart / together:.1f} times faster; "
        f"most at once: {most}"
    )
    expect.that(max(most.values()) <= LIMIT, f"more than {LIMIT} VFs of a card migrated at once: {most}")
    expect.that(most["log"] > 1, f"they migrated one by one: {most}")
    expect.that(
        apart >= FASTER * together,
        f"it took {together:.0f} s at once and {apart:.0f} s one by one: less than {FASTER} times faster",
    )


def timed(lab: Lab, source: Host, destination: Host, *options: str) -> tuple[float, dict[str, int]]:
    """Evacuate a host; returns the seconds it took, and how many guests migrated at once by log, jobs and claims."""
    began = time.time()
    with watched(lab) as seen:
        *_, end = evacuate(source, destination, "--bandwidth", str(BANDWIDTH), *options)
    took = time.time() - began
    outcomes = {each["domain"]: (each["outcome"], *each["problems"]) for each in end["guests"]}
    expect.that(outcomes == {guest.name: ("moved",) for guest in GUESTS}, f"it ended with {outcomes}")
    for guest in GUESTS:
        expect.moved(lab, guest, source, destination)
        expect.plugged(lab, guest, destination)
        expect.learned(guest, destination)
    expect.that(not facts.look(source).claims, f"claims are left on {source.hostname}")
    events = timeline.collect([destination], began)
    most = {
        "log": at_once(events),
        "leaving": max(seen[source.name].leaving, default=0),
        "coming": max(seen[destination.name].coming, default=0),
    }
    return took, most


def evacuate(source: Host, destination: Host, *options: str) -> list[dict[str, Any]]:
    """Run the command on a host; its events."""
    words = " ".join(options)
    told = source.run(
        f"vfmigrate evacuate qemu+tcp://{destination.hostname}/system --json {words}", timeout=COMMAND_S
    )
    return [json.loads(line) for line in told.splitlines()]


def at_once(events: Sequence[Event]) -> int:
    """By the destination's log: how many guests at most had their VF there and did not run there yet."""
    coming: set[str] = set()
    most = 0
    for event in events:
        uuid = event.fields.get("uuid", "")
        if event.name in ("migrate", "prepare", "start"):
            coming.add(uuid)
        elif event.name == "resumed-migrated":
            coming.discard(uuid)
        most = max(most, len(coming))
    return most


@contextmanager
def watched(lab: Lab) -> Iterator[dict[str, Seen]]:
    """Watch both hosts with virsh and the files of the claims, every second."""
    seen = {host.name: Seen() for host in lab.hosts}
    ready = threading.Barrier(len(lab.hosts) + 1)

    def look(host: Host) -> None:
        host.run("touch /run/watch")
        ready.wait(60)
        for line in host.run(WATCH, timeout=COMMAND_S).splitlines():
            leaving, coming = line.split()
            seen[host.name].leaving.append(int(leaving))
            seen[host.name].coming.append(int(coming))

    with ThreadPoolExecutor() as eyes:
        looks = [eyes.submit(look, host) for host in lab.hosts]
        ready.wait(60)
        try:
            yield seen
        finally:
            for host in lab.hosts:
                host.result("rm -f /run/watch")
        for each in looks:
            each.result()


def clear(lab: Lab) -> None:
    """End the guests and undefine them on both hosts."""
    for host in lab.hosts:
        names = " ".join(guest.name for guest in GUESTS)
        host.result(
            f"for name in {names}; do virsh destroy $name; virsh undefine $name; done 2> /dev/null",
            timeout=120,
        )
