# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that lose their records: reboots, damaged claim files, no space in /run, VFs changed by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import BEFORE
from tests.integration.hosts import wait_for
from tests.integration.journey import MAC, NAME, VLAN, Journey
from tests.integration.pair import Node, Pair, start_products
from tests.integration.product import CLAIMS
from tests.testbed.run import CommandError

pytestmark = pytest.mark.hosts

RUN = "/run/vfmigrate"


@pytest.fixture
def hasty(pair: Pair) -> Pair:
    """Both hosts with daemons whose reservations soon expire."""
    start_products(pair, claim_timeout=5)
    return pair


def claim_file(node: Node) -> Path:
    (file,) = node.host.path(CLAIMS).glob("*.json")
    return file


def test_ports_of_guests_that_a_reboot_ended_are_removed(hasty: Pair) -> None:
    """No process is left and /run is empty, but Open vSwitch's database still has the guest's port."""
    a = hasty.a
    before = a.state()
    a.start_guest(Guest(NAME, [Vf(a.vf(1), MAC, vlan=VLAN)]))
    a.product.stop("KILL")
    a.host.stop_libvirtd()
    a.host.stop(f"/run/libvirt/qemu/{NAME}.pid", "KILL")
    shutil.rmtree(a.host.path(RUN))
    for left in a.host.path("/run/libvirt/qemu").glob(f"{NAME}.*"):
        left.unlink()
    a.provision()
    assert len(a.host.ports()) == 1
    a.start_libvirtd()
    a.product.start()
    a.wait_until_ready()
    a.become(before)


def test_damaged_claims_are_logged_and_replaced(ready: Pair) -> None:
    a = ready.a
    a.start_guest(Guest(NAME, [Vf(a.vf(1), MAC, vlan=VLAN)]))
    a.wait_until_settled()
    before = a.state()
    whole = claim_file(a).read_text()
    newer = json.dumps({**json.loads(whole), "format": 99})
    damages = {"": "not JSON", whole[:-20]: "not JSON", "\0" * 80: "not JSON", newer: "another version"}
    for text, told in damages.items():
        a.product.stop("KILL")
        a.host.path(f"{RUN}/log").unlink()
        claim_file(a).write_text(text)
        a.product.start()
        wait_for("the running guest's VF to be claimed again", lambda: a.state() == before)
        assert f"{a.vf(1)}.json" in a.product.log()
        assert told in a.product.log()


@pytest.mark.parametrize("kind", ["directory", "symlink", "fifo"])
@pytest.mark.long
def test_a_claim_that_is_no_file_is_logged_and_replaced(ready: Pair, kind: str) -> None:
    a = ready.a
    a.start_guest(Guest(NAME, [Vf(a.vf(1), MAC, vlan=VLAN)]))
    a.wait_until_settled()
    before = a.state()
    a.product.stop("KILL")
    file = claim_file(a)
    file.unlink()
    if kind == "directory":
        file.mkdir()
        (file / "something").touch()
    elif kind == "symlink":
        file.symlink_to("/etc/hostname")
    else:
        a.host.run("mkfifo", f"{CLAIMS}/{file.name}")
    a.product.start()
    wait_for("the running guest's VF to be claimed again", lambda: a.state() == before)
    assert f"{a.vf(1)}.json" in a.product.log()


@pytest.mark.long
def test_a_claim_that_cannot_be_written_refuses_the_guest_until_there_is_space(pair: Pair) -> None:
    """The refusal names the file and the kernel's error; once there is space, the guest migrates without a restart."""
    a, b = pair.a, pair.b
    b.host.path(CLAIMS).mkdir(parents=True)
    b.host.run("mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", CLAIMS)
    try:
        start_products(pair, claim_timeout=5)
        journey = Journey(pair)
        filler = b.host.path(f"{CLAIMS}/filler")
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(65536))
        outcome = a.migrate(NAME, b)
        assert outcome.status != 0
        assert f"cannot write the claim on {b.vf(3)}" in outcome.error
        assert "No space left on device" in outcome.error
        assert CLAIMS in outcome.error
        journey.stays()
        filler.unlink()
        with b.hooks.hold(NAME, "start", BEFORE):
            migration = a.begin_migration(NAME, b)
            b.hooks.wait_for("start")
            with pytest.raises(OSError, match="No space left"):
                filler.write_bytes(bytes(65536))
        outcome = migration.finish()
        assert "No space left on device" in outcome.error
        journey.stays()
        filler.unlink()
        journey.travel()
    finally:
        b.product.stop()
        b.host.run("umount", CLAIMS)


def test_a_migration_to_a_vanished_vf_is_refused_and_the_guest_stays(hasty: Pair) -> None:
    """Somebody writes sriov_numvfs on the destination between the reservation and the start."""
    a, b = hasty.a, hasty.b
    journey = Journey(hasty)
    with b.hooks.hold(NAME, "prepare", BEFORE):
        migration = a.begin_migration(NAME, b)
        b.hooks.wait_for("prepare")
        b.host.path(f"/sys/bus/pci/devices/{b.pf}/sriov_numvfs").write_text("0")
    outcome = migration.finish()
    assert outcome.status != 0
    assert f"names VF {b.vf(3)} of pool 'data', which does not exist on this host" in outcome.error
    assert b.host.domains() == {}
    b.reconcile()
    refused = a.migrate(NAME, b)
    assert refused.status != 0
    assert "pool 'data' has no VFs on this host" in refused.error
    b.provision()
    journey.stays()
    journey.travel()


def test_the_claim_on_a_vanished_vf_is_dropped_with_its_guest(hasty: Pair) -> None:
    """Its claim is dropped at the first reconcile after the guest stops; other guests get VFs as before."""
    a = hasty.a
    before = a.state()
    a.start_guest(Guest(NAME, [Vf(a.vf(1), MAC, vlan=VLAN)]))
    a.host.path(f"/sys/bus/pci/devices/{a.pf}/sriov_numvfs").write_text("0")
    a.reconcile(fails=True)
    a.host.virsh("destroy", NAME, check=False)
    wait_for("the guest to be gone", lambda: a.host.domains() == {})
    a.provision()
    a.reconcile()
    a.become(before)
    a.start_guest(Guest(NAME, [Vf(a.vf(1), MAC, vlan=VLAN)]))


def test_a_reconcile_follows_a_renamed_representor(hasty: Pair) -> None:
    a, b = hasty.a, hasty.b
    journey = Journey(hasty)
    old = a.representor(3)
    for words in (("set", old, "down"), ("set", old, "name", "renamed"), ("set", "renamed", "up")):
        a.host.run("ip", "link", *words)
    try:
        a.reconcile()
        assert [(name, port.tag) for name, port in a.switch_ports().items()] == [("renamed", VLAN)]
        assert a.migrate(NAME, b).status == 0
        a.reconcile()
        assert a.switch_ports() == {}
    finally:
        a.host.run("ip", "link", "set", "renamed", "down")
        a.host.run("ip", "link", "set", "renamed", "name", old)
    a.become(journey.empty[0])


def test_a_reserved_vf_that_was_bound_by_hand_is_bound_again(hasty: Pair) -> None:
    a, b = hasty.a, hasty.b
    journey = Journey(hasty)
    with b.hooks.hold(NAME, "prepare", BEFORE):
        migration = a.begin_migration(NAME, b)
        b.hooks.wait_for("prepare")
        vf = f"/sys/bus/pci/devices/{b.vf(3)}"
        b.host.path(f"{vf}/driver_override").write_text("mlx5_core")
        b.host.path("/sys/bus/pci/drivers_probe").write_text(b.vf(3))
        assert b.card.function(b.vf(3)).driver == "mlx5_core"
        b.host.path(f"{vf}/driver_override").write_text("\n")
    outcome = migration.finish()
    assert outcome.status == 0, outcome.error
    function = b.card.function(b.vf(3))
    assert (function.driver, function.migratable_at_bind) == ("mlx5_vfio_pci", True)
    a.become(journey.empty[0])


@pytest.mark.long
def test_a_free_vf_that_was_bound_by_hand_is_made_migratable(ready: Pair) -> None:
    b = ready.b
    before = b.state()
    b.host.path(f"/sys/bus/pci/devices/{b.vf(3)}/driver_override").write_text("vfio-pci")
    b.host.path("/sys/bus/pci/drivers_probe").write_text(b.vf(3))
    b.host.path(f"/sys/bus/pci/devices/{b.vf(3)}/driver_override").write_text("\n")
    b.reconcile()
    state = b.state()
    assert replace(state, drivers=before.drivers) == before
    Journey(ready).travel()
    assert b.card.function(b.vf(3)).migratable_at_bind


PASSWORD = "pl4nt-9f"  # noqa: S105  (what must not be found)
DISPLAY = f"<graphics type='vnc' port='-1' autoport='yes' passwd='{PASSWORD}'/>"


def test_a_password_in_the_xml_is_never_written(hasty: Pair) -> None:
    """Libvirt passes it to the hook at `migrate`. The test searches what vfmigrate writes, in each outcome."""
    a, b = hasty.a, hasty.b
    journey = Journey(hasty, extra=DISPLAY)
    told = []
    b.host.stop_database()
    told.append(a.migrate(NAME, b).error)
    b.host.start_database()
    b.hooks.refuse("start", "no")
    told.append(a.migrate(NAME, b).error)
    b.hooks.clear()
    journey.travel()
    assert PASSWORD in "".join(call.xml for call in b.hooks.calls() if call.operation == "migrate")
    assert all(told)
    assert not [error for error in told if PASSWORD in error]
    for node in (a, b):
        node.reconcile()
        found = node.host.run(
            "grep", "-rl", PASSWORD, RUN, "/etc/vfmigrate", "/var/lib", "/var/log", check=False
        )
        ours = [name for name in found.stdout.split() if "libvirt" not in name]
        assert ours == []
        assert node.product.log()


def test_a_user_without_rights_is_refused_by_the_running_daemon(ready: Pair) -> None:
    asked = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "vfmigrate", "reconcile")
    with pytest.raises(
        CommandError,
        match="user 'nobody' has no right to send the request 'reconcile' to vfmigrated; run the command as root",
    ):
        ready.a.host.run(*asked)
