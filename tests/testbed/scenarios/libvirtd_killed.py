# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirtd is killed during a migration, first on the destination, then on the source: the guest stays there."""

from __future__ import annotations

import time

from tests.testbed import expect, facts, faults, services, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.report import Record

NAME = "libvirtd-killed"
TIMEOUT_S = 700

BACK_S = 120
GUEST = Guest("orphan-guest", 43, (Nic(mac="52:54:00:00:42:43", vlan=42, number=43, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Kill one libvirtd after the other, each during another migration, then let one migration succeed."""
    faults.at_home(lab, record, GUEST)
    before = facts.look(lab.b)
    home = services.look(lab.a, GUEST)
    with faults.heard(record, GUEST):
        for host in (lab.b, lab.a):
            with terminal.step(f"libvirtd is killed on {host.hostname} while the guest's memory is copied"):
                with faults.slow_migration(lab, GUEST, lab.a, lab.b) as under_way:
                    under_way.await_copying()
                    killed(host)
                attempt = under_way.outcome()
            record.measured[f"message_{host.name}"] = faults.failed(attempt)
            faults.stayed(lab, GUEST, lab.a, lab.b, before)
            record.events += timeline.collect(lab.hosts, attempt.began)
        expect.that(services.look(lab.a, GUEST).guest == home.guest, "the guest's QEMU is another process")
        faults.arrives(lab, record, GUEST)
    lab.destroy(GUEST)


def killed(host: Host) -> None:
    """Kill the host's libvirtd and wait until systemd has started one that answers."""
    before = services.look(host, GUEST)
    host.run("systemctl kill -s KILL --kill-who=main libvirtd.service")
    deadline = time.monotonic() + BACK_S
    while host.result("timeout 20 virsh -q list --name").status != 0:
        expect.that(time.monotonic() < deadline, f"libvirtd on {host.hostname} did not come back")
        time.sleep(0.5)
    after = services.look(host, GUEST)
    expect.that(after.libvirtd not in (before.libvirtd, "0"), f"libvirtd on {host.hostname} was not killed")
