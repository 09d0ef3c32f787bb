# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate attach` plugs a VF into a running guest, which migrates with it; `vfmigrate detach` unplugs it."""

from __future__ import annotations

import json
from typing import Any, cast

from tests.testbed import expect, terminal
from tests.testbed.guest import POOL, Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.report import Record

NAME = "attach"
TIMEOUT_S = 300

NETWORK = f"vfmigrate-{POOL}"
GUEST = Guest("plain-guest", 31, (Nic(mac="52:54:00:00:42:1f", vlan=42, number=51, network=NETWORK),))

#: PCIe ports for devices that are plugged in while the guest runs
PORTS = """\
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'/>
    <controller type='pci' index='2' model='pcie-root-port'/>
"""


def without_vf(guest: Guest) -> str:
    """The guest's XML before it gets its VF; its kernel command line has the address of the NIC already."""
    xml = guest.xml()
    for nic in guest.nics:
        xml = xml.replace(nic.xml(), "")
    begin, end = xml.index("  <metadata>"), xml.index("  </metadata>\n") + len("  </metadata>\n")
    return (xml[:begin] + xml[end:]).replace("<serial", f"{PORTS.strip()}\n    <serial")


def run(lab: Lab, record: Record) -> None:
    """Attach on A, migrate to B, detach there."""
    (nic,) = GUEST.nics
    record.mac = nic.mac
    with terminal.step("a guest without a VF boots on host A"):
        GUEST.console.unlink(missing_ok=True)
        lab.a.write(f"/root/{GUEST.name}.xml", without_vf(GUEST))
        lab.a.run(f"virsh define /root/{GUEST.name}.xml && virsh start {GUEST.name}", timeout=120)
        lab.await_boot(GUEST)
    try:
        attached(lab, record, nic)
    finally:
        lab.destroy(GUEST)
        for host in lab.hosts:
            host.result(f"virsh undefine {GUEST.name}")


def attached(lab: Lab, record: Record, nic: Nic) -> None:
    """Attach, migrate and detach the VF."""
    before = definition(lab.a)
    refused = lab.a.result(f"vfmigrate attach {GUEST.name} --pool {POOL} --vlan 99")
    expect.that(refused.status == 1, f"VLAN 99 was not refused: {refused.stdout}")
    expect.that(definition(lab.a) == before, "a refusal changed the definition")
    with terminal.step("vfmigrate attach, while it runs"):
        told = vfmigrate(lab.a, f"attach {GUEST.name} --pool {POOL} --mac {nic.mac} --vlan {nic.vlan}")
    vf = expect.plugged(lab, GUEST, lab.a)[nic.mac].address
    expect.that(told["vf"] == vf, f"it reports VF {told['vf']}, and the guest has {vf}")
    expect.that(
        f"network='{NETWORK}'" in definition(lab.a), "the definition does not name the pool's network"
    )
    record.source_vf, record.source_vlan = vf, nic.vlan
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 60), "the guest does not answer through its new VF")
        with terminal.step("virsh migrate --live --persistent --undefinesource, A to B"):
            migration = lab.a.result(
                f"virsh migrate --live --persistent --undefinesource {GUEST.name} qemu+tcp://host-b/system",
                120,
            )
        expect.that(migration.status == 0, f"virsh migrate failed: {migration.stderr.strip()}")
        expect.that(peer.await_answers(10, 60), "the guest does not answer on host B")
    finally:
        hearing = peer.stop()
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    expect.moved(lab, GUEST, lab.a, lab.b)
    record.destination_vf = expect.plugged(lab, GUEST, lab.b)[nic.mac].address
    record.destination_vlan = nic.vlan
    with terminal.step("vfmigrate detach, while it runs"):
        vfmigrate(lab.b, f"detach {GUEST.name}")
    expect.that(not lab.vf_addresses(GUEST, lab.b), "the guest still has a VF")
    expect.that(definition(lab.b) == before, "the definition is not what it was before")
    expect.moved(lab, GUEST, lab.a, lab.b)


def vfmigrate(host: Host, words: str) -> dict[str, Any]:
    """Run the command; returns its JSON output."""
    return cast("dict[str, Any]", json.loads(host.run(f"vfmigrate {words} --json", timeout=120)))


def definition(host: Host) -> str:
    """The guest's definition on a host."""
    return host.run(f"virsh dumpxml --inactive {GUEST.name}")
