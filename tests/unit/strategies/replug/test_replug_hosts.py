# SPDX-License-Identifier: GPL-2.0-or-later
"""A VF that stays behind, by what libvirt and the daemons at both ends are asked, in which order."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Optional, cast

import pytest

from tests.unit.migrate.test_monitor import Display
from vfmigrate.domain.migrating_vf import MigratingVf
from vfmigrate.errors import Cancelled, HostError, Refused, Unreachable, VfmigrateError
from vfmigrate.model import strategy
from vfmigrate.model.pci import PciAddress
from vfmigrate.strategies.replug.replug_hosts import HostClients, ReplugHosts
from vfmigrate.strategies.replug.sequence import Replug, ReplugResult

if TYPE_CHECKING:
    from vfmigrate.virt.hot_plug import HotPlug  # imports libvirt-python

MAC = "52:54:00:00:00:02"
UUID = "00000000-0000-4000-8000-000000000001"
DEVICE = "<interface/>"


class World:
    """Both hosts and the guest; what is asked of them is noted as `place: what`."""

    uuid, name = UUID, "g"

    def __init__(self) -> None:
        self.done: list[str] = []
        self.asked: list[Mapping[str, Any]] = []
        self.fails: dict[str, VfmigrateError] = {}
        self.vf_at: Optional[str] = "source"
        self.guest_at = "source"
        self.cancelled = threading.Event()
        self.cancel_at: Optional[str] = None

    def act(self, what: str) -> None:
        self.done.append(what)
        if what == self.cancel_at:
            self.cancelled.set()
        if what in self.fails:
            raise self.fails[what]

    def migrate(self) -> None:
        self.act("migrate")
        self.guest_at = self.vf_at = "destination"  # its daemon is quick


class DaemonClient:
    """The daemon of one end."""

    def __init__(self, world: World, place: str) -> None:
        self._world, self._place = world, place

    def ask(self, name: str, arguments: Mapping[str, Any], *, timeout: float = 20.0) -> Mapping[str, Any]:
        assert timeout > 0
        self._world.asked.append(arguments)
        self._world.act(f"{self._place}: {name}")
        return {"vf": "0000:41:00.2"}


class Plugs:
    """libvirt at one end."""

    def __init__(self, world: World, place: str) -> None:
        self._world, self._place = world, place

    def text(self, mac: str) -> Optional[str]:
        assert mac == MAC
        return DEVICE if self._world.vf_at == self._place else None

    def detach(self, mac: str, text: str, cancelled: threading.Event) -> None:
        assert (mac, text) == (MAC, DEVICE)
        self._world.act(f"{self._place}: detach")
        if cancelled.is_set():
            raise Cancelled("cancelled while the guest was to let go")
        self._world.vf_at = None

    def attach(self, text: str) -> None:
        assert text == DEVICE
        self._world.act(f"{self._place}: attach")
        self._world.vf_at = self._place


def run(world: World) -> ReplugResult:
    ends = ReplugHosts(
        world,
        [
            MigratingVf(
                MAC, strategy.named("replug"), "data", 42, PciAddress(0, 5, 0, 0), PciAddress(0, 1, 0, 2)
            )
        ],
        HostClients(DaemonClient(world, "source"), cast("HotPlug", Plugs(world, "source"))),
        HostClients(DaemonClient(world, "destination"), cast("HotPlug", Plugs(world, "destination"))),
        Display(),
        world.cancelled,
    )
    return Replug(ends, [MAC]).run()


def test_the_vf_is_reserved_unplugged_and_the_guest_migrates() -> None:
    world = World()
    outcome = run(world)
    assert outcome.arrived
    assert world.done == ["destination: claim", "source: claim", "source: detach", "migrate"]
    there, here = world.asked
    assert there == {**here, "incoming": True, "origin": "0000:01:00.2"}
    assert here == {
        "domain": UUID,
        "name": "g",
        "mac": MAC,
        "strategy": "replug",
        "pool": "data",
        "slot": "0000:05:00.0",
        "vlan": 42,
    }


def test_a_vf_that_the_source_does_not_know_is_refused() -> None:
    world = World()
    world.fails["source: claim"] = Refused("no such VF")
    with pytest.raises(Refused, match="no such VF"):
        run(world)
    assert world.done == ["destination: claim", "source: claim", "destination: give_back"]


def test_a_destination_that_does_not_answer_changes_nothing() -> None:
    world = World()
    world.fails["destination: claim"] = Unreachable("vfmigrated on b does not answer")
    with pytest.raises(Unreachable):
        run(world)
    assert world.done == ["destination: claim"]


def test_a_migration_that_is_cancelled_early_reserves_nothing() -> None:
    world = World()
    world.cancelled.set()
    with pytest.raises(Cancelled):
        run(world)
    assert world.done == []


def test_a_cancelled_unplug_leaves_the_vf_in_the_guest() -> None:
    world = World()
    world.cancel_at = "source: detach"
    outcome = run(world)
    assert isinstance(outcome.failure, Cancelled)
    assert (world.vf_at, outcome.without_vf) == ("source", {})
    assert world.done[-1] == "destination: give_back"


def test_a_failed_migration_plugs_the_vf_in_again() -> None:
    world = World()
    world.fails["migrate"] = HostError("no room")
    outcome = run(world)
    assert (outcome.arrived, outcome.failed, world.vf_at) == (False, "no room", "source")
    assert world.done[-3:] == ["migrate", "source: attach", "destination: give_back"]


def test_a_vf_that_cannot_be_plugged_in_again_is_reported() -> None:
    world = World()
    world.fails["migrate"] = HostError("no room")
    world.fails["source: attach"] = HostError("there is one with this MAC already")
    outcome = run(world)
    assert outcome.without_vf == {MAC: "there is one with this MAC already"}


def test_a_vf_that_is_not_in_the_guest_is_a_failure() -> None:
    world = World()
    world.vf_at = None
    outcome = run(world)
    assert "has no VF with MAC" in outcome.failed
    assert "its XML is not known" in outcome.without_vf[MAC]
    assert "migrate" not in world.done
