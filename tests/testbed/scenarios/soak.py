# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest with a VF migrates back and forth many times: none fails, and nothing accumulates. Run by `make soak`."""

from __future__ import annotations

import os

from tests.testbed import expect, facts, faults, terminal
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.report import Record

NAME = "soak"
# How many times to migrate, in the environment.
MIGRATIONS = "VFMIGRATE_SOAK_MIGRATIONS"
COUNT = int(os.environ.get(MIGRATIONS, "50"))
TIMEOUT_S = 300 + 60 * COUNT

# By how much the daemon may grow between the second round and the last: its caches are filled by then.
GROWTH_KIB = 4096
GUEST = Guest("soak-guest", 45, (Nic(mac="52:54:00:00:42:45", vlan=42, number=45, vf="0000:01:10.2"),))

# A request that has just ended can still have its thread, so the counts are taken when they no longer change.
RESOURCES = """
pid=$(systemctl show --property=MainPID --value vfmigrated.service)
vfmigrate reconcile > /dev/null; sleep 1
echo "pid $pid"
echo "files $(ls /proc/$pid/fd | wc -l)"
echo "threads $(ls /proc/$pid/task | wc -l)"
echo "rss_kib $(sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status)"
"""


def resources(host: Host) -> dict[str, int]:
    """The resources that the host's daemon uses."""
    lines = (line.split() for line in host.run(RESOURCES).splitlines())
    return {name: int(number) for name, number in lines}


def run(lab: Lab, record: Record) -> None:
    """Migrate back and forth, and compare both hosts after the second and after the last round."""
    faults.at_home(lab, record, GUEST)
    places = [lab.a, lab.b]
    downtimes: list[float] = []
    settled: dict[str, dict[str, int]] = {}
    looks: dict[str, facts.Facts] = {}
    record.measured["migrations"] = 0
    with faults.heard(record, GUEST), terminal.step(f"virsh migrate --live, back and forth, {COUNT} times"):
        for number in range(1, COUNT + 1):
            source, destination = places
            migration = lab.migrate(GUEST, source, destination)
            expect.migrated(migration, GUEST)
            record.measured["migrations"] = number
            downtimes.append(migration.downtime_ms or 0.0)
            places.reverse()
            if number in (4, COUNT) or number == COUNT - COUNT % 2:
                expect.moved(lab, GUEST, source, destination)
                expect.plugged(lab, GUEST, destination)
            if number == 4:
                settled = {host.name: resources(host) for host in lab.hosts}
                looks = lab.look()
    record.measured["downtime_ms"] = {"least": min(downtimes), "most": max(downtimes)}
    judge(lab, record, settled, looks)
    lab.destroy(GUEST)


def judge(
    lab: Lab, record: Record, settled: dict[str, dict[str, int]], looks: dict[str, facts.Facts]
) -> None:
    """Expect no more on either host than after the second round."""
    at_last = {host.name: resources(host) for host in lab.hosts}
    record.measured["resources_after_two_rounds"], record.measured["resources_at_last"] = settled, at_last
    for host in lab.hosts:
        then, now = settled.get(host.name), at_last[host.name]
        if then is None:
            continue
        expect.that(now["pid"] == then["pid"], f"vfmigrated on {host.hostname} was restarted")
        for name in ("files", "threads"):
            expect.that(
                now[name] <= then[name], f"{host.hostname}: {name} grew from {then[name]} to {now[name]}"
            )
        grown = now["rss_kib"] - then["rss_kib"]
        expect.that(grown <= GROWTH_KIB, f"vfmigrated on {host.hostname} grew by {grown} KiB")
    if COUNT % 2 == 0 and looks:
        for name, look in lab.look().items():
            left = facts.left_behind(looks[name], look)
            expect.that(facts.is_clean(left), f"host-{name} is not as after the second round: {left}")
