# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests with VFs of strategy `replug`, between two hosts with real libvirt: nothing is lost, whatever fails.

No guest runs code here; the test bed's scenario `replug-bond` has a guest with a bond.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.fakes.hardware import Hardware
from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import AFTER
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Pair, State
from tests.integration.test_migrate_verb import interrupt, migrate, words
from tests.integration.test_migration import vfs_of
from tests.integration.test_remote import ask

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
GUEST = "g"


def replugged(node: Node, *, plugged: bool = True) -> Guest:
    return Guest(GUEST, [Vf(node.vf(1), MAC, vlan=42, strategy="replug", plugged=plugged)])


def vf_status(node: Node, vf: str) -> dict[str, Any]:
    told = json.loads(node.host.run("vfmigrate", "status", "--json").stdout)
    found = [
        each for pool in told["pools"] for pf in pool["pfs"] for each in pf["vfs"] if each["address"] == vf
    ]
    return dict(found[0])


def guest_address(node: Node) -> dict[str, str]:
    """The guest's PCI address of its only VF."""
    devices = ET.fromstring(node.host.virsh("dumpxml", GUEST)).findall("devices/*")
    (vf,) = [device for device in devices if "hostdev" in {device.tag, device.get("type")}]
    address = vf.find("address")
    assert address is not None
    return dict(address.attrib)


def plug(node: Node, vf: Vf, *options: str) -> None:
    """Run a guest and plug a VF into it.

    A guest without code releases a device only if it was plugged in while the guest ran.
    """
    guest = Guest(GUEST, [], free_ports=1, marked=[vf])
    node.host.virsh("define", "/dev/stdin", stdin=guest.xml())
    node.host.virsh("start", GUEST)
    node.host.virsh("attach-device", GUEST, "/dev/stdin", "--live", *options, stdin=vf.device())
    wait_for("the VF to be stamped", lambda: "psid=" in node.host.virsh("dumpxml", GUEST))


@pytest.fixture
def pluggable(ready: Pair) -> Pair:
    """Both hosts, where VFs can be plugged into running guests."""
    for node in (ready.a, ready.b):
        node.set_hotplug(True)
    return ready


@pytest.mark.parametrize("form", ["interface", "hostdev"])
def test_a_guest_migrates_there_and_back_by_replug(pluggable: Pair, form: str) -> None:
    a, b = pluggable.a, pluggable.b
    empty = (a.state(), b.state())
    plug(a, Vf(a.vf(1), MAC, vlan=42, form=form, strategy="replug"))
    slot = guest_address(a)
    goes(a, b, empty[0], slot)
    goes(b, a, empty[1], slot)


def goes(source: Node, target: Node, was: State, slot: dict[str, str]) -> None:
    """Migrate, and expect everything on the target, and the source as it `was` before the guest."""
    done = migrate(source, target, "--unchecked", "--persistent", "--undefinesource")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    told = done.stdout.splitlines()
    for step in ("is reserved on the destination", "released its VF", "has a VF on the destination"):
        assert any(step in line for line in told), told
    assert any(f"{MAC} had no VF for " in line for line in told)
    wait_for("the claim to be an ordinary one", lambda: not_out(target))
    ((vf, claim),) = target.product.claims().items()
    assert (claim["state"], claim["strategy"], claim["mac"]) == ("plugged", "replug", MAC)
    assert vfs_of(target.host.virsh("dumpxml", GUEST)) == [vf]
    assert guest_address(target) == slot
    assert [port.tag for port in target.switch_ports().values()] == [42]
    wait_for("the source to be as if nothing had been", lambda: source.state() == was)


def not_out(node: Node) -> bool:
    (claim,) = node.product.claims().values()
    return claim["slot"] is None and claim["expires"] is None


def test_a_failed_migration_plugs_the_vf_in_again(pluggable: Pair) -> None:
    a, b = pluggable.a, pluggable.b
    plug(a, replugged(a).vfs[0])
    before, slot = (a.state(), b.state()), guest_address(a)
    b.hooks.refuse("started", "no room", AFTER)
    done = migrate(a, b, "--unchecked")
    assert done.returncode == 69
    assert "no room" in done.stderr
    assert "the guest runs on the source" in done.stderr
    assert "the guest has its VF on the source again" in done.stdout
    assert guest_address(a) == slot
    a.become(before[0])
    b.become(before[1])


def test_the_definition_names_the_vf_of_the_destination(pluggable: Pair) -> None:
    a, b = pluggable.a, pluggable.b
    plug(a, replugged(a).vfs[0], "--config")
    done = migrate(a, b, "--unchecked", "--persistent", "--undefinesource")
    assert (done.returncode, done.stderr) == (0, "")
    running = vfs_of(b.host.virsh("dumpxml", GUEST))
    assert list(b.product.claims()) == running
    wait_for(
        "the definition to name the VF in use",
        lambda: vfs_of(b.host.virsh("dumpxml", "--inactive", GUEST)) == running,
    )


def test_plain_virsh_migrate_is_refused_with_a_remedy(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(replugged(a))
    before = (a.state(), b.state())
    outcome = a.migrate(GUEST, b)
    assert outcome.status != 0
    assert "run: vfmigrate migrate g DESTURI" in outcome.error
    assert (a.state(), b.state()) == before


def test_a_destination_without_a_free_vf_refuses_before_the_vf_is_unplugged(ready: Pair) -> None:
    a, b = ready.a, ready.b
    b.start_guest(Guest("h", [Vf(b.vf(index), f"52:54:00:00:01:0{index}") for index in range(4)], number=2))
    a.start_guest(replugged(a))
    before = (a.state(), b.state())
    done = migrate(a, b)
    assert done.returncode == 1
    assert "guest 'g' cannot migrate: " in done.stderr  # as vfmigrate check shows beforehand
    assert (a.state(), b.state()) == before
    done = migrate(a, b, "--unchecked")
    assert done.returncode == 1
    assert "pool 'data' has no free VF on this host" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (a.state(), b.state()) == before


def test_ctrl_c_while_the_guest_releases_its_vf_cancels_the_migration(ready: Pair) -> None:
    """It runs no operating system, so it never does."""
    a, b = ready.a, ready.b
    a.start_guest(replugged(a))
    before = (a.state(), b.state())
    command = a.host.spawn(*words(b, "--unchecked"))
    assert command.stdout is not None
    assert "by replug" in command.stdout.readline()
    assert f"{MAC}: VF " in command.stdout.readline()
    interrupt(a)
    output, error = command.communicate(timeout=60)
    assert (command.returncode, len(error.splitlines())) == (130, 1), (output, error)
    a.become(before[0])
    b.become(before[1])


def test_plugging_into_a_guest_that_arrived_without_its_vf_is_retried(ready: Pair) -> None:
    a, b = ready.a, ready.b
    guest = replugged(a, plugged=False)
    a.start_guest(guest)
    wish: dict[str, Any] = {
        "domain": guest.uuid,
        "mac": MAC,
        "strategy": "replug",
        "pool": "data",
    }
    vf = ask(a, b, "claim", **wish, incoming=True, slot="0000:05:00.0", vlan=42)["result"]["vf"]

    outcome = a.migrate(GUEST, b)

    assert outcome.status == 0, outcome.error
    wait_for("the status to say so", lambda: vf_status(b, vf)["state"] == "standby", seconds=30)
    (problem, *_) = vf_status(b, vf)["problems"]
    assert problem.startswith(f"guest '{guest.uuid}' runs without it: libvirt: plugging a VF in: ")
    assert "tried again in 5 s" in problem
    assert b.host.domains() == {GUEST: "running"}
    assert b.switch_ports() == {}
    wait_for("another attempt", lambda: "tried again in 10 s" in b.product.log(), seconds=30)
    # the claim is dropped when the guest stops
    b.host.virsh("destroy", GUEST)
    wait_for("the VF to be free", lambda: b.product.claims() == {})


def test_a_guest_falls_back_to_replug_between_different_firmwares(pluggable: Pair) -> None:
    """Its VF keeps strategy vfio, so that it migrates with its state again when both hosts are equal."""
    a, b = pluggable.a, pluggable.b
    empty = a.state()
    plug(a, Vf(a.vf(1), MAC, vlan=42))
    slot = guest_address(a)
    b.card.refit(Hardware(firmware="28.39.2048"))
    b.reconcile()

    refused = migrate(a, b)
    words_of_fallback = ("--fallback", "replug")
    outage = migrate(a, b, *words_of_fallback)
    done = migrate(a, b, *words_of_fallback, "--allow-outage", "--persistent", "--undefinesource")

    assert refused.returncode != 0
    assert "28.39.2048" in refused.stderr
    assert "has no interface besides its VFs" in outage.stderr
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert f"{MAC}: its state cannot travel, so it will be unplugged and replaced: " in done.stdout
    wait_for("the claim to be an ordinary one", lambda: not_out(b))
    (claim,) = b.product.claims().values()
    assert (claim["state"], claim["strategy"], claim["mac"]) == ("plugged", "vfio", MAC)
    assert guest_address(b) == slot
    assert [port.tag for port in b.switch_ports().values()] == [42]
    wait_for("the source to be as if nothing had been", lambda: a.state() == empty)
