# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate list` and `vfmigrate where` on namespace hosts, with real libvirt and vfmigrated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import BRIDGE
from tests.integration.pair import Node, Pair

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"


@pytest.fixture
def guests(ready: Pair) -> Pair:
    """On host A run g with a VF and h without one; f with a VF is shut off."""
    a = ready.a
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42)]))
    a.wait_until_settled()  # waits for each guest of the host to have a mark, so that the others come later
    a.start_guest(Guest("h", number=2))
    a.define_guest(Guest("f", [Vf(a.vf(2), "52:54:00:00:00:03")], number=3))
    return ready


def listed(node: Node, *options: str) -> dict[str, Any]:
    told = json.loads(node.host.run("vfmigrate", "list", "--json", *options).stdout)
    return {guest["name"]: guest for guest in told["guests"]}


def test_each_running_guest_with_a_vf_is_a_line(guests: Pair) -> None:
    a = guests.a
    head, *lines = a.host.run("vfmigrate", "list").stdout.splitlines()
    assert head.split() == ["GUEST", "STATE", "STRATEGY", "POOL", "VLAN", "PF", "CAN", "LEAVE"]
    assert [line.split() for line in lines] == [["g", "running", "vfio", "data", "42", a.pf, "yes"]]
    assert guests.b.host.run("vfmigrate", "list").stdout == "no guest has a VF\n"
    everything = listed(a, "--all")
    assert sorted(everything) == ["f", "g"]
    assert (everything["f"]["state"], everything["f"]["can_leave"]) == ("shut off", None)
    assert everything["g"]["vfs"][0]["mac"] == MAC


def test_without_the_daemon_the_guests_are_listed_and_the_failure_is_reported(guests: Pair) -> None:
    guests.a.product.stop()
    done = guests.a.host.run("vfmigrate", "list", check=False)
    assert done.returncode == 75
    assert done.stderr.startswith("vfmigrate: ")
    (line,) = done.stdout.splitlines()[1:]
    assert line.split() == ["g", "running", "vfio", "data", "42", "-", "unknown"]


def test_each_host_says_whether_it_can_take_the_guest(guests: Pair) -> None:
    a, b = guests.a, guests.b
    uris = ("qemu+tcp://host-b/system", "qemu:///system", "qemu+tcp://host-c/system")
    done = a.host.run("vfmigrate", "where", "g", *uris)
    head, first, own, gone, _, _, *cards = done.stdout.splitlines()
    assert head.split() == ["HOST", "CAN", "TAKE", "IT"]
    assert first.split() == ["host-b", "yes"]
    assert "no: guest 'g' is on host-a already" in own
    assert gone.startswith("qemu+tcp://host-c/system")
    assert "unknown: cannot connect to libvirt" in gone
    assert [card.split()[:2] for card in cards] == [["host-a", "data"], ["host-b", "data"]]
    assert cards[0].split()[3:5] == cards[1].split()[3:5]
    b.host.vsctl("del-br", BRIDGE)
    try:
        done = a.host.run("vfmigrate", "where", "g", uris[0], check=False)
    finally:
        b.host.add_bridge()
    assert done.returncode == 1
    assert f"no: host-b: there is no bridge '{BRIDGE}'" in done.stdout


def test_where_of_an_unknown_guest_is_an_error(guests: Pair) -> None:
    done = guests.a.host.run("vfmigrate", "where", "nobody", "qemu+tcp://host-b/system", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "has no guest 'nobody'" in done.stderr
