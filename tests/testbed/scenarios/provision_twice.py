# SPDX-License-Identifier: GPL-2.0-or-later
"""Provisioning again changes nothing; another number of VFs is refused while a guest has one, which notices nothing."""

from __future__ import annotations

import json
from typing import Any, cast

from tests.testbed import expect, facts, terminal
from tests.testbed.guest import POOL, Guest, Nic
from tests.testbed.host import Host
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.provision import VFS
from tests.testbed.report import Record

NAME = "provision"
TIMEOUT_S = 240

GUEST = Guest("held-guest", 11, (Nic(mac="52:54:00:00:42:0b", vlan=42, number=21, vf="0000:01:10.2"),))
OTHER_CONFIG = "/etc/vfmigrate/vfmigrate.conf.d/other-vfs.conf"


def run(lab: Lab, record: Record) -> None:
    """On host A: provision twice without a guest, and once with a configuration that would hurt the guest."""
    host, nic = lab.a, GUEST.nics[0]
    record.mac = nic.mac
    for _ in range(2):
        outcome = provision(host)
        expect.that(outcome["error"] is None, f"provisioning failed: {outcome['error']}")
        expect.that(outcome["changes"] == [], f"a ready host was changed: {outcome['changes']}")
    told = host.run("vfmigrate provision")
    expect.that(f"{POOL}: nothing to change" in told, f"it does not say that nothing changed: {told}")
    with terminal.step("guest with a VF boots on host A"):
        lab.start_guest(host, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, host)[nic.mac].address
    record.source_vlan = nic.vlan
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer")
        before = facts.look(host)
        with terminal.step(f"{VFS - 1} VFs are asked for instead of {VFS}"):
            host.write(OTHER_CONFIG, f"[pool {POOL}]\nvfs = {VFS - 1}\n")
            host.run("systemctl restart vfmigrated.service")
            refused = host.result("vfmigrate provision")
        expect.that(
            refused.status == 1, f"it was not refused but ended with {refused.status}: {refused.stdout}"
        )
        expect.that(f"guest '{GUEST.name}'" in refused.stderr, f"the guest is not named: {refused.stderr}")
        expect.that(facts.look(host) == before, "something changed all the same")
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer any more")
    finally:
        hearing = peer.stop()
        host.run(f"rm -f {OTHER_CONFIG}; systemctl restart vfmigrated.service")
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    expect.that(hearing.lost == 0, f"{hearing.lost} of {hearing.sent} pings were lost")
    lab.destroy(GUEST)


def provision(host: Host) -> dict[str, Any]:
    """What came of provisioning the host's one pool."""
    (outcome,) = json.loads(host.run("vfmigrate provision --json", timeout=120))["pools"]
    return cast("dict[str, Any]", outcome)
