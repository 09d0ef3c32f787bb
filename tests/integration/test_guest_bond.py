# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's bond with a real NetworkManager in a small virtual machine; the VF is hot-plugged under traffic."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import namespaces
from tests.integration.guest_machine import OUTSIDE_MAC, STANDBY_MAC, VF_MAC, Done, GuestMachine
from tests.integration.hosts import wait_for
from tests.testbed import root
from tests.testbed.run import run

TREE = Path(__file__).parents[2]
GUEST_ADDRESS = "192.0.2.7"

# It boots a virtual machine: .ci/run and `make soak` run it, `make test` does not.
pytestmark = pytest.mark.long
PEER_ADDRESS = "192.0.2.1"
CONFIGURATION = """\
[main]
plugins=keyfile
no-auto-default=*
dns=none
auth-polkit=false
"""


class Guest:
    """A guest with NetworkManager, a VF and a virtio device, and the outside network in a namespace of it."""

    def __init__(self, machine: GuestMachine) -> None:
        self.machine = machine
        self.run = machine.run

    def start(self) -> None:
        """Move the outside network to its namespace; start a system bus and NetworkManager."""
        self.run("ip", "netns", "add", "outside")
        self.run("ip", "link", "set", self.name_of(OUTSIDE_MAC), "netns", "outside", "name", "wire")
        self.outside("ip", "address", "add", f"{PEER_ADDRESS}/24", "dev", "wire")
        self.outside("ip", "link", "set", "wire", "up")
        self.run("ip", "link", "set", "lo", "up")
        self.machine.write("/etc/NetworkManager/NetworkManager.conf", CONFIGURATION)
        self.run("mkdir", "/run/dbus")
        self.run("dbus-uuidgen", "--ensure")
        self.run("dbus-daemon", "--system", "--fork")
        self.start_networkmanager()

    def start_networkmanager(self) -> None:
        self.run("NetworkManager", "--pid-file=/run/nm.pid")
        wait_for("NetworkManager", lambda: self.run("nmcli", "general", check=False).status == 0, 60)

    def outside(self, *words: str) -> Done:
        """Run a command in the outside network."""
        return self.run("ip", "netns", "exec", "outside", *words)

    def name_of(self, mac: str) -> str:
        """The name of the device with this permanent MAC; '' if there is none."""
        shown = self.run("vfmigrate-guest", "show", "--json")
        names = [each["name"] for each in json.loads(shown.stdout)["devices"] if each["mac"] == mac]
        return str(names[0]) if names else ""

    def bond(self, *words: str) -> Done:
        return self.run("vfmigrate-guest", *words, check=False)

    def join(self) -> None:
        done = self.bond("bond", "--address", f"{GUEST_ADDRESS}/24")
        assert done.status == 0, done.stderr

    def ports(self) -> set[str]:
        done = self.run("cat", "/sys/class/net/bond0/bonding/slaves", check=False)
        return set(done.stdout.split())

    def active(self) -> str:
        return self.run("cat", "/sys/class/net/bond0/bonding/active_slave").stdout.strip()

    def profiles(self) -> list[str]:
        return sorted(self.run("nmcli", "-t", "-f", "NAME", "connection").stdout.split())


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest that is booted once for all tests here, vfmigrate-guest installed."""
    place = tmp_path_factory.mktemp("guest")
    with namespaces.host("machine", root.host_root(), place) as around:
        booted = GuestMachine(around, place)
        staged = place / "staged"
        run("make", "--silent", "-C", TREE, "install-guest", f"DESTDIR={staged}")
        for file in (each for each in staged.rglob("*") if each.is_file()):
            booted.write(f"/{file.relative_to(staged)}", file.read_text(), f"{file.stat().st_mode & 0o777:o}")
        one = Guest(booted)
        one.start()
        yield one
        booted.close()


@pytest.fixture
def guest(machine: Guest) -> Iterator[Guest]:
    """The guest in its first state: its VF plugged, no bond."""
    yield machine
    machine.bond("remove")
    wait_for("the bond to be gone", lambda: not machine.ports(), 30)
    if not machine.name_of(VF_MAC):
        machine.machine.plug_vf()
        wait_for("the VF to be back", lambda: machine.name_of(VF_MAC) != "", 30)


def test_a_bond_is_made_once_and_removed(guest: Guest) -> None:
    before = guest.profiles()
    vf, standby = guest.name_of(VF_MAC), guest.name_of(STANDBY_MAC)
    guest.join()
    assert guest.ports() == {vf, standby}
    assert guest.active() == vf
    assert guest.profiles() == sorted([*before, "bond0", "bond0-standby", "bond0-vf"])
    guest.outside("ping", "-c", "1", "-W", "5", GUEST_ADDRESS)

    again = guest.bond("bond")
    assert (again.status, again.stdout) == (0, "nothing to do\n"), again.stderr
    shown = json.loads(guest.bond("show", "--json").stdout)
    assert (set(shown["bond"]["ports"]), shown["bond"]["active"]) == ({vf, standby}, vf)

    removed = guest.bond("remove")
    assert removed.status == 0, removed.stderr
    assert guest.profiles() == before
    wait_for("the bond to be gone", lambda: not guest.ports())
    assert guest.bond("remove").stdout == "nothing to do\n"


def test_the_bond_gets_the_addresses_of_the_vf(guest: Guest) -> None:
    vf = guest.name_of(VF_MAC)
    lan = (
        "type",
        "ethernet",
        "con-name",
        "lan",
        "ifname",
        vf,
        "ipv6.method",
        "disabled",
        "ipv4.method",
        "manual",
    )
    guest.run("nmcli", "connection", "add", *lan, "ipv4.addresses", f"{GUEST_ADDRESS}/24")
    guest.run("nmcli", "--wait", "20", "connection", "up", "lan")
    done = guest.bond("bond")
    assert done.status == 0, done.stderr
    assert f"inet {GUEST_ADDRESS}/24" in guest.run("ip", "address", "show", "bond0").stdout
    guest.bond("remove")
    wait_for(
        "the VF to have its address again",
        lambda: f"inet {GUEST_ADDRESS}/24" in guest.run("ip", "address", "show", vf).stdout,
        90,
    )
    guest.run("nmcli", "connection", "delete", "lan")


def test_traffic_continues_while_the_vf_is_unplugged_and_returns_under_another_name(guest: Guest) -> None:
    vf, standby = guest.name_of(VF_MAC), guest.name_of(STANDBY_MAC)
    guest.join()
    guest.outside("ping", "-c", "2", "-W", "5", GUEST_ADDRESS)
    guest.run(
        "sh",
        "-c",
        f"ip netns exec outside ping -i 0.1 {GUEST_ADDRESS} > /run/ping 2>&1 & echo $! > /run/ping.pid",
    )
    guest.machine.unplug_vf()
    wait_for("the standby to carry", lambda: guest.ports() == {standby} and guest.active() == standby, 30)
    guest.outside("ping", "-c", "3", "-W", "5", GUEST_ADDRESS)
    guest.run("ip", "link", "add", vf, "type", "dummy")  # its old name is in use when it is plugged in again
    guest.machine.plug_vf("port2")
    wait_for("the VF to join again", lambda: len(guest.ports()) == 2, 60)
    (again,) = guest.ports() - {standby}
    assert again != vf
    wait_for("the VF to carry again", lambda: guest.active() == again, 30)
    guest.outside("ping", "-c", "3", "-W", "5", GUEST_ADDRESS)
    guest.run("ip", "link", "delete", vf)
    guest.run("sh", "-c", "kill -INT $(cat /run/ping.pid)")
    wait_for("ping to tell", lambda: "transmitted" in guest.run("cat", "/run/ping").stdout)
    counted = re.search(r"(\d+) packets transmitted, (\d+) received", guest.run("cat", "/run/ping").stdout)
    assert counted is not None
    sent, received = map(int, counted.groups())
    print(f"the peer sent {sent} pings and lost {sent - received}")
    assert sent > 20
    assert received > sent / 2


def test_a_dry_run_shows_what_would_change(guest: Guest) -> None:
    before = guest.profiles()
    done = guest.bond("bond", "--dry-run")
    assert done.stdout.splitlines() == [
        "would add profile bond0",
        "would add profile bond0-vf",
        "would add profile bond0-standby",
    ]
    assert guest.profiles() == before


def test_a_failed_bond_leaves_nothing_behind(guest: Guest) -> None:
    before = guest.profiles()
    done = guest.bond("bond", "--vf", guest.name_of(VF_MAC), "--standby", "lo")
    assert done.status == 1
    assert len(done.stderr.splitlines()) == 1
    assert guest.profiles() == before


def test_without_networkmanager_the_command_says_so_in_one_line(guest: Guest) -> None:
    guest.run("sh", "-c", "kill $(cat /run/nm.pid)")
    wait_for("NetworkManager to end", lambda: guest.run("nmcli", "general", check=False).status != 0)
    done = guest.bond("bond")
    guest.start_networkmanager()
    assert (
        done.stderr
        == "vfmigrate-guest: NetworkManager does not answer; run: systemctl start NetworkManager\n"
    )
