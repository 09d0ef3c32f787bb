# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration that leaves VFs behind: whatever fails, the guest ends with all it can have where it runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmigrate.errors import HostError, Refused
from vfmigrate.strategies.replug.sequence import Replug

MACS = ("52:54:00:00:00:02", "52:54:00:00:00:03")
ACTIONS = ("claim", "give_back", "unplug", "plug_back", "migrate", "plug")


class Hosts:
    """Two hosts and a guest that only remember; actions fail as often as told."""

    def __init__(self, failures: dict[str, int], *, slow: bool = False, free: int = 2) -> None:
        self.failures = dict(failures)
        self.free = free
        self.slow = slow
        self.on_source = True
        self.vfs = set(MACS)
        self.claims: set[str] = set()
        self.done: list[str] = []

    def _act(self, action: str) -> None:
        self.done.append(action)
        if self.failures.get(action, 0) > 0:
            self.failures[action] -= 1
            raise HostError(f"{action} failed", "try again")

    def claim(self, mac: str) -> None:
        assert self.vfs == set(MACS), "nothing is taken before everything is reserved"
        self._act("claim")
        if len(self.claims) == self.free:
            raise HostError("no free VF", "add some")
        self.claims.add(mac)

    def give_back(self, mac: str) -> None:
        self._act("give_back")
        self.claims.discard(mac)

    def unplug(self, mac: str) -> None:
        if self.slow:
            self.vfs.discard(mac)  # it lets go after all, just too late
        self._act("unplug")
        self.vfs.discard(mac)

    def has_vf(self, mac: str) -> bool:
        return mac in self.vfs

    def plug_back(self, mac: str) -> None:
        assert self.on_source
        self._act("plug_back")
        self.vfs.add(mac)

    def migrate(self) -> None:
        assert not self.vfs
        assert self.claims == set(MACS)
        self._act("migrate")
        self.on_source = False

    def plug(self, mac: str) -> None:
        assert not self.on_source
        assert mac in self.claims
        self._act("plug")
        self.vfs.add(mac)


def test_all_vfs_are_reserved_before_any_is_unplugged() -> None:
    hosts = Hosts({})
    outcome = Replug(hosts, MACS).run()
    assert hosts.done == ["claim", "claim", "unplug", "unplug", "migrate", "plug", "plug"]
    assert (outcome.arrived, outcome.failed, outcome.without_vf) == (True, "", {})
    assert hosts.vfs == set(MACS)


def test_a_destination_without_enough_vfs_changes_nothing() -> None:
    hosts = Hosts({}, free=1)
    with pytest.raises(Refused, match="no free VF; add some"):
        Replug(hosts, MACS).run()
    assert hosts.done == ["claim", "claim", "give_back"]
    assert (hosts.claims, hosts.vfs) == (set(), set(MACS))


@pytest.mark.parametrize("slow", [False, True])
def test_a_guest_that_does_not_release_its_vfs_keeps_them(slow: bool) -> None:
    hosts = Hosts({"unplug": 1}, slow=slow)
    outcome = Replug(hosts, MACS).run()
    assert (outcome.arrived, outcome.failed) == (False, "unplug failed; try again")
    assert (hosts.vfs, hosts.claims) == (set(MACS), set())
    assert "migrate" not in hosts.done


def test_a_failed_migration_plugs_all_vfs_in_again() -> None:
    hosts = Hosts({"migrate": 1})
    outcome = Replug(hosts, MACS).run()
    assert not outcome.arrived
    assert (hosts.vfs, hosts.claims, hosts.on_source) == (set(MACS), set(), True)


def test_a_guest_that_arrived_stays_without_its_vfs() -> None:
    hosts = Hosts({"plug": 2})
    outcome = Replug(hosts, MACS).run()
    assert outcome.arrived
    assert sorted(outcome.without_vf) == list(MACS)
    assert not hosts.on_source
    assert hosts.done.count("migrate") == 1


@given(st.dictionaries(st.sampled_from(ACTIONS), st.integers(0, 3)), st.booleans())
def test_each_vf_without_its_guest_is_reported_whatever_fails(failures: dict[str, int], slow: bool) -> None:
    hosts = Hosts(failures, slow=slow)
    engine = Replug(hosts, MACS)
    try:
        outcome = engine.run()
    except Refused:
        assert hosts.vfs == set(MACS)
        return
    assert outcome.arrived == (not hosts.on_source)
    assert set(outcome.without_vf) == set(MACS) - hosts.vfs
