# SPDX-License-Identifier: GPL-2.0-or-later
"""Provisioning a provisioned host changes nothing, and what would take a VF from a guest is refused.

Also: Open vSwitch is restarted where that is allowed, and udev gives representors stable names.
"""

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
    """Provision host A several times without a guest, and once with fewer VFs while a guest runs."""
    host, nic = lab.a, GUEST.nics[0]
    record.mac = nic.mac
    for _ in range(2):
        outcome = provision(host)
        expect.that(outcome["error"] is None, f"provisioning failed: {outcome['error']}")
        expect.that(outcome["changes"] == [], f"a ready host was changed: {outcome['changes']}")
    restart_switch(host)
    name_representors(host)
    told = host.run("vfmigrate provision")
    expect.that(f"{POOL}: nothing to change" in told, f"the output does not say that nothing changed: {told}")
    with terminal.step("guest with a VF boots on host A"):
        lab.start_guest(host, GUEST)
    record.source_vf = expect.plugged(lab, GUEST, host)[nic.mac].address
    record.source_vlan = nic.vlan
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer")
        before = facts.look(host)
        with terminal.step(f"{VFS - 1} VFs are asked for instead of {VFS}"):
            configure(host, f"vfs = {VFS - 1}\n")
            refused = host.result("vfmigrate provision")
        expect.that(
            refused.status == 1, f"it was not refused but ended with {refused.status}: {refused.stdout}"
        )
        expect.that(f"guest '{GUEST.name}'" in refused.stderr, f"the guest is not named: {refused.stderr}")
        expect.that(facts.look(host) == before, "the refused command changed something")
        expect.that(peer.await_answers(10, 30), "the guest does not answer the peer any more")
    finally:
        hearing = peer.stop()
        host.run(f"rm {OTHER_CONFIG}; systemctl restart vfmigrated.service")
    record.pings_sent, record.pings_lost = hearing.sent, hearing.lost
    record.longest_silence_ms = round(hearing.longest_silence_ms, 1)
    expect.that(hearing.lost == 0, f"{hearing.lost} of {hearing.sent} pings were lost")
    lab.destroy(GUEST)


def provision(host: Host) -> dict[str, Any]:
    """Provision the host's one pool; returns the outcome."""
    (outcome,) = json.loads(host.run("vfmigrate provision --json", timeout=120))["pools"]
    return cast("dict[str, Any]", outcome)


def configure(host: Host, keys: str) -> None:
    """Set further keys of the pool of a host; the daemon reads them when it starts."""
    host.write(OTHER_CONFIG, f"[pool {POOL}]\n{keys}")
    host.run("systemctl restart vfmigrated.service")


def restart_switch(host: Host) -> None:
    """Allow provisioning to restart Open vSwitch for hardware offload, which it has only reported as due so far."""
    pid = "cat /run/openvswitch/ovs-vswitchd.pid"
    before = host.run(pid)
    configure(host, "restart_openvswitch = yes\n")
    changes = provision(host)["changes"]
    expect.that(changes == ["restarted Open vSwitch for hardware offload"], f"it changed {changes}")
    expect.that(host.run(pid) != before, "the switch daemon is the same process")
    again = provision(host)
    expect.that(not again["changes"] and not again["findings"], f"after the restart it reports {again}")


def name_representors(host: Host) -> None:
    """Create the VFs again with stable names for their representors, and then as they were."""
    configure(host, f"vfs = {VFS - 1}\nrepresentor_names = stable\n")
    outcome = provision(host)
    expect.that(outcome["error"] is None, f"provisioning failed: {outcome['error']}")
    names = [vf.representor for vf in facts.look(host).vfs.values()]
    wanted = [f"r0100pf0vf{index}" for index in range(VFS - 1)]
    expect.that(sorted(names) == wanted, f"the representors are named {', '.join(names)}")
    told = host.run(f"udevadm info --query=property /sys/class/net/{wanted[0]}")
    expect.that("NM_UNMANAGED=1" in told.split(), "a representor is managed by NetworkManager")
    configure(host, "")
    outcome = provision(host)
    expect.that(outcome["error"] is None, f"provisioning failed: {outcome['error']}")
    expect.that(len(facts.look(host).vfs) == VFS, "the VFs did not come back")
