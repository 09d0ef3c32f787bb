# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose VFs stay behind, between two hosts with real libvirt; QEMU has no VFIO here, so no VF can be plugged in.

What is shown is what must hold when things go wrong: nothing is touched before all is promised, a guest that does not
let go keeps what it has, and one that arrived without its VF stays, is told of and tried again. The test bed's scenario
`replug-bond` shows the rest.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Pair
from tests.integration.test_migrate_verb import interrupt, migrate, words
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


def test_plain_virsh_says_what_to_do(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(replugged(a))
    before = (a.state(), b.state())
    outcome = a.migrate(GUEST, b)
    assert outcome.status != 0
    assert "run: vfmigrate migrate g DESTURI" in outcome.error
    assert (a.state(), b.state()) == before


def test_without_a_free_vf_there_nothing_is_touched(ready: Pair) -> None:
    a, b = ready.a, ready.b
    b.start_guest(Guest("h", [Vf(b.vf(index), f"52:54:00:00:01:0{index}") for index in range(4)], number=2))
    a.start_guest(replugged(a))
    before = (a.state(), b.state())
    done = migrate(a, b)
    assert done.returncode == 1
    assert "guest 'g' cannot go: " in done.stderr  # as vfmigrate check tells beforehand
    assert (a.state(), b.state()) == before
    done = migrate(a, b, "--unchecked")
    assert done.returncode == 1
    assert "pool 'data' has no free VF on this host" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (a.state(), b.state()) == before


def test_ctrl_c_while_the_guest_is_to_let_go(ready: Pair) -> None:
    """It runs no system, and so never does."""
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
    wait_for("both hosts to be as before", lambda: (a.state(), b.state()) == before)


def test_a_guest_that_arrived_without_its_vf_stays_and_is_tried_again(ready: Pair) -> None:
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
    # and the guest takes its claim along when it goes
    b.host.virsh("destroy", GUEST)
    wait_for("the VF to be free", lambda: b.product.claims() == {})
