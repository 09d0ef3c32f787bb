# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate evacuate` between two hosts with real libvirt: which guests migrate, which stay, and a second run."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import BEFORE
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Pair, start_products

pytestmark = pytest.mark.hosts

TO_B = "qemu+tcp://host-b/system"
MACS = [f"52:54:00:00:01:0{number}" for number in range(4)]


def evacuate(node: Node, *words: str) -> subprocess.CompletedProcess[str]:
    return node.host.run("vfmigrate", "evacuate", *(words or (TO_B,)), check=False, timeout=400)


def told(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def guests(node: Node, count: int, *, first: int = 0) -> Sequence[Guest]:
    """Guests with a VF each, which run."""
    made = [
        Guest(f"g{number}", [Vf(node.vf(number), MACS[number], vlan=42)], number + 1)
        for number in range(first, first + count)
    ]
    for guest in made:
        node.start_guest(guest)
    node.wait_until_settled()
    return made


def running(node: Node) -> set[str]:
    return {name for name, state in node.host.domains().items() if state == "running"}


def test_a_host_is_emptied(ready: Pair) -> None:
    a, b = ready.a, ready.b
    empty = a.state()
    guests(a, 3)
    a.define_guest(Guest("persistent", [Vf(a.vf(3), MACS[3])], 8))
    a.host.virsh("start", "persistent")
    a.start_guest(Guest("plain", number=9))
    a.define_guest(Guest("resting", number=10))
    a.wait_until_ready()

    done = evacuate(a)

    assert (done.returncode, done.stderr) == (0, "")
    assert running(b) == {"g0", "g1", "g2", "persistent", "plain"}
    assert a.host.domains() == {"resting": "shut off"}
    assert b.host.virsh("dominfo", "persistent").split("Persistent:")[1].split()[0] == "yes"
    a.host.virsh("undefine", "resting")
    assert a.state() == empty
    assert sorted(claim["domain_name"] for claim in b.product.claims().values()) == [
        "g0",
        "g1",
        "g2",
        "persistent",
    ]
    table = done.stdout.split("\n\n")[1]
    assert [line.split()[:4] for line in table.splitlines()[1:]] == [
        [name, vfs, "moved", "host-b"]
        for name, vfs in (
            ("g0", "data"),
            ("g1", "data"),
            ("g2", "data"),
            ("persistent", "data"),
            ("plain", "-"),
        )
    ]
    assert evacuate(a).stdout == "no guest runs on this host\n"


def test_a_dry_run_migrates_nothing(ready: Pair) -> None:
    guests(ready.a, 2)
    states = (ready.a.state(), ready.b.state())
    done = evacuate(ready.a, "--dry-run", "--json", TO_B)
    (plan,) = told(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(each["domain"], each["destination"]) for each in plan["guests"]] == [
        ("g0", "host-b"),
        ("g1", "host-b"),
    ]
    assert (ready.a.state(), ready.b.state()) == states


def test_a_guest_without_a_free_vf_stays_until_the_next_run(ready: Pair) -> None:
    a, b = ready.a, ready.b
    b.start_guest(Guest("holder", [Vf(b.vf(number), f"52:54:00:00:02:0{number}") for number in range(3)], 20))
    guests(a, 2)

    done = evacuate(a, "--json", TO_B)

    *_, end = told(done)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "not moved: g1" in done.stderr
    assert [(each["domain"], each["outcome"]) for each in end["guests"]] == [
        ("g0", "moved"),
        ("g1", "stayed"),
    ]
    assert end["guests"][1]["problems"] == ["host-b: pool 'data' has no free VF left"]
    assert running(a) == {"g1"}
    b.host.virsh("destroy", "holder")
    wait_for("the VFs to be free", lambda: len(b.product.claims()) == 1)
    assert evacuate(a).returncode == 0
    assert running(b) == {"g0", "g1"}


def test_a_refused_guest_is_retried_and_reported(ready: Pair) -> None:
    a, b = ready.a, ready.b
    guests(a, 1)
    a.start_guest(Guest("plain", number=9))
    b.hooks.refuse("migrate", "not today", BEFORE)
    done = evacuate(a, "--json", TO_B)
    *events, end = told(done)
    assert done.returncode != 0
    refused = [event["domain"] for event in events if event["event"] == "refused"]
    assert sorted(refused) == ["g0", "g0", "plain", "plain"]
    assert {each["outcome"] for each in end["guests"]} == {"stayed"}
    assert all("not today" in each["problems"][0] for each in end["guests"])
    assert running(a) == {"g0", "plain"}
    # libvirt runs all hooks, whatever the first says, and calls none afterwards: the reservation expires
    assert all(claim["expires"] is not None for claim in b.product.claims().values())


def at_once(source: Node, target: Node) -> int:
    """The largest number of guests that migrated at once, by libvirt's calls of the hooks on both hosts."""
    arriving = [(call.time, call.name) for call in target.hooks.calls() if call.operation == "migrate"]
    gone = {call.name: call.time for call in source.hooks.calls() if call.operation == "stopped"}
    assert {name for _, name in arriving} == set(gone)
    return max(sum(begun <= at < gone[name] for begun, name in arriving) for at, _ in arriving)


@pytest.mark.long
def test_parallel_evacuation_is_faster_within_the_limit_of_each_card(pair: Pair) -> None:
    """With little bandwidth for each, as on a slow network, so that the network and not the processor is the limit."""
    a, b = pair.a, pair.b
    for node in (a, b):
        node.provision(7)
        node.set_ballast(8)
    start_products(pair)
    for number in range(6):
        a.start_guest(Guest(f"g{number}", [Vf(a.vf(number), f"52:54:00:00:03:0{number}")], number + 1))
    a.wait_until_settled(60)
    took = {}
    for source, target, jobs in ((a, b, "6"), (b, a, "1")):
        for node in (a, b):
            node.hooks.clear()
        begun = time.monotonic()
        uri = f"qemu+tcp://{target.host.name}/system"
        done = evacuate(source, "--jobs", jobs, "--bandwidth", "2", uri)
        took[jobs] = time.monotonic() - begun
        assert (done.returncode, done.stderr) == (0, "")
        assert len(running(target)) == 6
        most = at_once(source, target)
        assert 1 < most <= 4 if jobs == "6" else most == 1
    assert took["1"] >= 1.5 * took["6"], took


def test_only_named_guests_migrate(ready: Pair) -> None:
    guests(ready.a, 3)
    assert evacuate(ready.a, "--only", "g1", "--only", "g2", TO_B).returncode == 0
    assert (running(ready.a), running(ready.b)) == ({"g0"}, {"g1", "g2"})


def test_ctrl_c_leaves_every_guest_on_one_host_and_a_second_run_migrates_the_rest(ready: Pair) -> None:
    a, b = ready.a, ready.b
    guests(a, 4)
    with b.hooks.hold("g1", "started", BEFORE):
        process = a.host.spawn("vfmigrate", "evacuate", "--jobs", "2", "--json", TO_B)
        wait_for(
            "g1 to be on its way",
            lambda: any((call.name, call.operation) == ("g1", "started") for call in b.hooks.calls()),
        )
        pids = a.host.run("pgrep", "-f", "^/usr/bin/python3 .*vfmigrate evacuate").stdout.split()
        a.host.run("kill", "-INT", *pids)
        assert process.stdout is not None
        lines: list[dict[str, Any]] = []
        while not lines or (lines[-1]["event"], lines[-1]["domain"]) != ("cancelling", "g1"):
            lines.append({"domain": None, **json.loads(process.stdout.readline())})
    output, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "not moved: " in error
    assert not running(a) & running(b)
    assert running(a) | running(b) == {"g0", "g1", "g2", "g3"}
    assert "g1" in running(a)
    end = json.loads(output.splitlines()[-1])
    assert {each["domain"] for each in end["guests"] if each["outcome"] == "moved"} == running(b)
    wait_for("no claim but of guests that run there", lambda: len(b.product.claims()) == len(running(b)))
    assert evacuate(a).returncode == 0
    assert running(b) == {"g0", "g1", "g2", "g3"}
    assert a.product.claims() == {}


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (("qemu+tcp://host-a/system",), 2, "qemu+tcp://host-a/system is this host"),
        ((TO_B, TO_B), 2, "is host-b, which is given twice"),
        (("qemu+tcp://host-c/system",), 75, "cannot connect to libvirt at qemu+tcp://host-c/system"),
        (("--only", "nobody", TO_B), 1, "no guest 'nobody' runs on this host"),
    ],
)
def test_refusals_are_one_line(pair: Pair, words: tuple[str, ...], status: int, problem: str) -> None:
    done = evacuate(pair.a, *words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (status, "", 1)
    assert problem in done.stderr


def test_a_destination_without_vfmigrate_takes_plain_guests(pair: Pair) -> None:
    pair.a.product.start()
    pair.a.wait_until_ready()
    guests(pair.a, 1)
    pair.a.start_guest(Guest("plain", number=9))
    done = evacuate(pair.a)
    assert done.returncode == 1
    assert "host-b: vfmigrated does not answer" in done.stdout
    assert (running(pair.a), running(pair.b)) == ({"g0"}, {"plain"})
