# SPDX-License-Identifier: GPL-2.0-or-later
"""A host becomes ready without any command when it is switched on or rebooted, with an autostarted guest with a VF."""

from __future__ import annotations

import time
from typing import Optional

from tests.testbed import expect, facts, terminal
from tests.testbed.expect import ScenarioError
from tests.testbed.guest import Guest, Nic
from tests.testbed.host import BOOT_TIMEOUT_S, Host
from tests.testbed.lab import Lab
from tests.testbed.peer import Peer
from tests.testbed.provision import BRIDGE, VFS
from tests.testbed.report import Record

NAME = "host-boot"
TIMEOUT_S = 600
READY_S = 240

NETWORK = "vfmigrate-data"
GUEST = Guest("boot-guest", 10, (Nic(mac="52:54:00:00:42:0a", vlan=42, number=20, network=NETWORK),))

# Changes nothing: the host must become ready without any command. libvirt starts after the pools are provisioned, and
# virsh waits for it.
LOOK = f"""
ovs-vsctl --timeout=5 list-ports {BRIDGE} | grep -qx p0 || exit 1
timeout 10 virsh -q net-list --name | grep -qx {NETWORK} || exit 1
timeout 10 virsh -q list --name | grep -qx {GUEST.name}
"""


def run(lab: Lab, record: Record) -> None:
    """Switch host B off and on, and reboot it."""
    host, nic = lab.b, GUEST.nics[0]
    record.mac = nic.mac
    GUEST.console.unlink(missing_ok=True)
    host.write(f"/root/{GUEST.name}.xml", GUEST.xml())
    host.run(f"virsh define /root/{GUEST.name}.xml && virsh autostart {GUEST.name}")
    boot = boot_id(host)
    with terminal.step("host B is switched off"):
        host.power_off()
    with terminal.step("host B is switched on, and becomes ready without a command"):
        began = time.monotonic()
        host.power_on()
        boot = await_other_boot(host, boot)
        await_ready(lab, host)
        record.measured["ready_after_power_on_s"] = round(time.monotonic() - began, 1)
    answers(nic)
    with terminal.step("host B is rebooted, and becomes ready without a command"):
        host.reboot()
        began = time.monotonic()
        await_other_boot(host, boot)
        await_ready(lab, host)
        record.measured["ready_after_reboot_s"] = round(time.monotonic() - began, 1)
    answers(nic)
    record.source_vf = expect.plugged(lab, GUEST, host)[nic.mac].address
    record.source_vlan = nic.vlan
    host.run(f"virsh destroy {GUEST.name} && virsh undefine {GUEST.name}")


def boot_id(host: Host) -> str:
    """The ID of the host's present boot. Raises CommandError while the host does not answer."""
    return host.run("cat /proc/sys/kernel/random/boot_id").strip()


def await_other_boot(host: Host, boot: str) -> str:
    """Wait until the host answers with another boot ID; returns that ID."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline:
        if host.greets():
            found = host.result("cat /proc/sys/kernel/random/boot_id", timeout=30).stdout.strip()
            if found not in ("", boot):
                return found
        time.sleep(0.5)
    raise ScenarioError(f"{host.hostname} did not come up in {BOOT_TIMEOUT_S} s: {host.last_words()}")


def await_ready(lab: Lab, host: Host) -> None:
    """Wait until the host is provisioned and its guest runs, then check the details."""
    deadline = time.monotonic() + READY_S
    while host.result(LOOK).status != 0:
        if time.monotonic() > deadline:
            raise ScenarioError(f"{host.hostname} is not ready after {READY_S} s: {missing(host)}")
        time.sleep(1)
    lab.await_life(GUEST, READY_S)
    seen = facts.look(host)
    expect.that(len(seen.vfs) == VFS, f"{host.hostname} has {len(seen.vfs)} VFs, not {VFS}")
    for vf in seen.vfs.values():
        expect.that(vf.migratable, f"{vf.address} on {host.hostname} is not migratable")
    expect.plugged(lab, GUEST, host)
    failed = host.run("systemctl list-units --failed --plain --no-legend 'vfmigrate*'").strip()
    expect.that(not failed, f"a unit of vfmigrate failed on {host.hostname}: {failed}")


def missing(host: Host) -> str:
    """The status of a host that is not ready, on one line."""
    command = (
        "vfmigrate status; virsh net-list --all; virsh list --all; systemctl list-units --failed --plain"
    )
    told: Optional[str] = host.result(command).stdout
    return " / ".join((told or "nothing").split("\n"))


def answers(nic: Nic) -> None:
    """Expect the guest to answer the peer."""
    peer = Peer(nic.address)
    try:
        expect.that(peer.await_answers(10, 60), "the guest does not answer the peer")
    finally:
        peer.stop()
