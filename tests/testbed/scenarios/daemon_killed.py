# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrated is killed on both hosts during a migration: systemd restarts it, and the migration succeeds."""

from __future__ import annotations

import time

from tests.testbed import expect, facts, faults, services, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.report import Record

NAME = "daemon-killed"
TIMEOUT_S = 700

BACK_S = 120
GUEST = Guest("killed-guest", 42, (Nic(mac="52:54:00:00:42:42", vlan=42, number=42, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Kill both daemons on the way from A to B; on the way back, stop the source's until the migration has ended."""
    faults.at_home(lab, record, GUEST)
    empty = facts.look(lab.b)
    with faults.heard(record, GUEST):
        with faults.slow_migration(lab, GUEST, lab.a, lab.b, endless=True) as under_way:
            under_way.await_copying()
            for host in (lab.b, lab.a):
                with terminal.step(f"vfmigrated is killed on {host.hostname} while the memory is copied"):
                    killed(host)
            expect.that(not under_way.job.done(), "the migration was over before both were killed")
            faults.full_speed(GUEST, lab.a)
        there = under_way.outcome()
        expect.migrated(there, GUEST)
        expect.moved(lab, GUEST, lab.a, lab.b)
        record.destination_vf = expect.plugged(lab, GUEST, lab.b)[GUEST.nics[0].mac].address
        record.destination_vlan = GUEST.nics[0].vlan
        record.downtime_ms = there.downtime_ms
        expect.learned(GUEST, lab.b)
        record.events = timeline.collect(lab.hosts, there.began)
        without_daemon(lab, empty)
    lab.destroy(GUEST)


def without_daemon(lab: Lab, empty: facts.Facts) -> None:
    """Migrate back while no daemon runs on B; it must clean up when it is started again."""
    faults.full_speed(GUEST, lab.b)
    units = "vfmigrated.socket vfmigrated.service"
    lab.b.run(f"systemctl kill -s KILL vfmigrated.service; systemctl stop {units}")
    with terminal.step("virsh migrate --live, B to A, with no vfmigrated on host B"):
        back = lab.migrate(GUEST, lab.b, lab.a)
    expect.migrated(back, GUEST)
    expect.moved(lab, GUEST, lab.b, lab.a)
    expect.plugged(lab, GUEST, lab.a)
    lab.b.run(f"systemctl reset-failed {units}; systemctl start {units}")
    # A claim is not touched in its first 15 seconds: libvirt may be between two calls of the hook.
    deadline = time.monotonic() + BACK_S
    while not facts.is_clean(left := facts.left_behind(empty, facts.look(lab.b))):
        expect.that(time.monotonic() < deadline, f"host-b did not clean up: {left}")
        lab.b.run("vfmigrate reconcile")
        time.sleep(1)


def killed(host: Host) -> None:
    """Kill the host's daemon and wait until systemd has started another one."""
    before = services.look(host, GUEST)
    host.run("systemctl kill -s KILL vfmigrated.service")
    deadline = time.monotonic() + BACK_S
    while host.result("vfmigrate status > /dev/null").status != 0:
        expect.that(time.monotonic() < deadline, f"vfmigrated on {host.hostname} did not come back")
        time.sleep(0.5)
    after = services.look(host, GUEST)
    expect.that(after.daemon not in (before.daemon, "0"), f"vfmigrated on {host.hostname} was not killed")
