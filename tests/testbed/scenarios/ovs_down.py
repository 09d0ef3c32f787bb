# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch is down: a migration to such a host is refused, and one away from it is cleaned up when it is back."""

from __future__ import annotations

import time

from tests.testbed import expect, facts, faults, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.report import Record

NAME = "ovs-down"
TIMEOUT_S = 700

UP_S = 120
CLEAN_S = 120
SWITCH = "ovs-vswitchd.service"
DATABASE = "ovsdb-server.service"
GUEST = Guest("switch-guest", 44, (Nic(mac="52:54:00:00:42:44", vlan=42, number=44, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Stop Open vSwitch on the destination in two ways, restart it on both mid-migration, stop it on the source."""
    faults.at_home(lab, record, GUEST)
    before = facts.look(lab.b)
    with faults.heard(record, GUEST):
        refused(lab, record, before)
        restarted(lab, record)
        left(lab, before)
    lab.destroy(GUEST)


def refused(lab: Lab, record: Record, before: facts.Facts) -> None:
    """Try with no database, and with a database but no switch daemon."""
    for service, word, stop in (
        (DATABASE, "ovsdb-server", f"systemctl stop {DATABASE}"),
        # systemd would stop the database with it
        (SWITCH, "ovs-vswitchd", "ovs-appctl --target=ovs-vswitchd exit"),
    ):
        with terminal.step(f"virsh migrate while {service} is down on host B is refused"):
            lab.b.run(stop)
            try:
                attempt = lab.migrate(GUEST, lab.a, lab.b)
            finally:
                up(lab.b)
        record.measured[f"message_without_{service.partition('.')[0]}"] = faults.failed(attempt, word)
        faults.stayed(lab, GUEST, lab.a, lab.b, before)


def restarted(lab: Lab, record: Record) -> None:
    """Restart Open vSwitch on both hosts while the memory is copied: the migration succeeds."""
    restart = f"systemctl restart {DATABASE} {SWITCH}"
    with faults.slow_migration(lab, GUEST, lab.a, lab.b) as under_way:
        under_way.await_copying()
        with terminal.step("Open vSwitch is restarted on both hosts while the guest's memory is copied"):
            lab.on_both(lambda host: host.run(restart, timeout=UP_S))
    there = under_way.outcome()
    expect.migrated(there, GUEST)
    expect.moved(lab, GUEST, lab.a, lab.b)
    record.downtime_ms = there.downtime_ms
    record.destination_vf = expect.plugged(lab, GUEST, lab.b)[GUEST.nics[0].mac].address
    record.destination_vlan = GUEST.nics[0].vlan
    record.events = timeline.collect(lab.hosts, there.began)


def left(lab: Lab, empty: facts.Facts) -> None:
    """Migrate away from a host without its database: the port is removed when the database is back."""
    faults.full_speed(GUEST, lab.b)
    lab.b.run(f"systemctl stop {DATABASE}")
    try:
        with terminal.step(f"virsh migrate --live, B to A, while {DATABASE} is down on host B"):
            back = lab.migrate(GUEST, lab.b, lab.a)
    finally:
        up(lab.b)
    expect.migrated(back, GUEST)
    expect.moved(lab, GUEST, lab.b, lab.a)
    expect.plugged(lab, GUEST, lab.a)
    deadline = time.monotonic() + CLEAN_S
    while not facts.is_clean(behind := facts.left_behind(empty, facts.look(lab.b))):
        expect.that(time.monotonic() < deadline, f"host-b did not clean up: {behind}")
        lab.b.run("vfmigrate reconcile")
        time.sleep(1)


def up(host: Host) -> None:
    """Start Open vSwitch on a host again."""
    host.run(f"systemctl start {DATABASE} {SWITCH} openvswitch-switch.service", timeout=UP_S)
    host.run("ovs-vsctl --timeout=30 get Open_vSwitch . cur_cfg")
