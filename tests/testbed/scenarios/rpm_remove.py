# SPDX-License-Identifier: GPL-2.0-or-later
"""The packages are removed from a host with a running guest that has a VF: it is not affected, and nothing is left."""

from __future__ import annotations

from tests.testbed import expect, product, services, terminal
from tests.testbed.guest import Guest, Nic
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "rpm-remove"
TIMEOUT_S = 360

GUEST = Guest("remove-guest", 9, (Nic(mac="52:54:00:00:42:09", vlan=42, number=19, vf="0000:01:10.2"),))

# The pool's network stays: it belongs to libvirt, and guests name it.
NETWORK = {
    "/etc/libvirt/qemu/networks/vfmigrate-data.xml",
    "/etc/libvirt/qemu/networks/autostart/vfmigrate-data.xml",
    "/run/libvirt/network/vfmigrate-data.xml",
    # where libvirt notes which VFs of it were used
    "/run/libvirt/network/vfmigrate-data",
}
SAVED = {"/etc/vfmigrate", "/etc/vfmigrate/vfmigrate.conf.rpmsave"} | NETWORK


def run(lab: Lab, record: Record) -> None:
    """Remove the packages while the guest runs and search the host; then install them again."""
    nic = GUEST.nics[0]
    record.mac = nic.mac
    with terminal.step("guest with a VF boots on host A"):
        lab.start_guest(lab.a, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    record.source_vlan = nic.vlan
    before = services.look(lab.a, GUEST)
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer before the removal")
        with terminal.step("rpm -e on host A"):
            product.remove(lab.a)
        after = services.look(lab.a, GUEST)
        expect.that(peer.await_answers(10, 30), "the guest does not answer after the removal")
    finally:
        hearing = peer.stop()
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    expect.that(after.guest == before.guest, "the guest's QEMU is another process")
    expect.that(after.libvirtd == before.libvirtd, "libvirtd was restarted")
    expect.that(hearing.lost == 0, f"{hearing.lost} pings were lost while the packages were removed")
    left = services.traces(lab.a) - SAVED
    expect.that(not left, f"the packages left behind {', '.join(sorted(left))}")
    # The guest's port and VF stay as they are while it runs; the daemon cleans up when it is installed again.
    expect.plugged(lab, GUEST, lab.a)
    with terminal.step("the guest ends without vfmigrate; the packages are installed again"):
        lab.destroy(GUEST)
        product.install(lab.a)
