# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages are installed on a host with a running guest that has a VF: it is not affected, and can migrate."""

from __future__ import annotations

from tests.testbed import expect, product, services, terminal, timeline
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "rpm-install"
TIMEOUT_S = 300

GUEST = Guest("install-guest", 7, (Nic(mac="52:54:00:00:42:07", vlan=42, number=17, vf="0000:01:10.2"),))


def run(lab: Lab, record: Record) -> None:
    """Remove the packages, install them while the guest runs, and migrate it without a restart of libvirt."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("guest with a VF boots on host A; the packages are removed"):
        lab.start_guest(lab.a, GUEST)
        product.remove(lab.a)
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer without the packages")
        before = services.look(lab.a, GUEST)
        with terminal.step("rpm -U on host A"):
            product.install(lab.a)
        after = services.look(lab.a, GUEST)
        expect.that(after.guest == before.guest, "the guest's QEMU is another process")
        expect.that(after.libvirtd == before.libvirtd, "libvirtd was restarted")
        expect.that(after.daemon != "0", "vfmigrated does not run")
        expect.that(lab.claimed(lab.a), "vfmigrated did not adopt the running guest's VF")
        record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
        record.source_vlan = nic.vlan
        expect.that(peer.await_answers(10, 30), "the guest does not answer with the packages")
        installed = peer.stop()
        record.measured["pings_lost_by_installing"] = installed.lost
        record.measured["silence_by_installing_ms"] = round(installed.longest_silence_ms, 1)
        expect.that(
            installed.lost == 0, f"{installed.lost} pings were lost while the packages were installed"
        )
    finally:
        peer.stop()
    with terminal.step("virsh migrate --live, A to B"):
        there = lab.migrate(GUEST, lab.a, lab.b)
    expect.migrated(there, GUEST)
    record.downtime_ms = there.downtime_ms
    expect.moved(lab, GUEST, lab.a, lab.b)
    record.destination_vf = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
    record.destination_vlan = nic.vlan
    record.events = timeline.collect(lab.hosts, there.began)
    record.pings_sent, record.pings_lost = installed.sent, installed.lost
    record.longest_silence_ms = round(installed.longest_silence_ms, 1)
    lab.destroy(GUEST)
