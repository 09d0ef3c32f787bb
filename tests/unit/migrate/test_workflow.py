# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration as a whole: what is done when, what is looked at afterwards, and what is found wanting."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional, cast

import pytest

from tests.unit.migrate.test_monitor import Display
from tests.unit.strategies.replug.test_replug_hosts import DEVICE, MAC, UUID, Plugs, World
from vfmigrate.domain.migrating_vf import MigratingVf
from vfmigrate.errors import Cancelled, HostError, Refused, Unreachable, VfmigrateError
from vfmigrate.migrate.convergence import ConvergenceLimits
from vfmigrate.migrate.workflow import Migration, MigrationReport
from vfmigrate.model import strategy
from vfmigrate.model.migration_options import MigrationOptions
from vfmigrate.model.pci import PciAddress
from vfmigrate.strategies.replug.replug_hosts import HostClients

if TYPE_CHECKING:
    from vfmigrate.virt.hot_plug import HotPlug
    from vfmigrate.virt.migration_job import MigrationJob  # it imports libvirt-python

REPLUG = MigratingVf(MAC, strategy.named("replug"), "data", slot=PciAddress(0, 5, 0, 0))
VFIO = MigratingVf(MAC, strategy.named("vfio"), "data")


class Busy(HostError):
    """Has a constructor of its own, as LibvirtError, which pure tests cannot import."""

    def __init__(self, code: int) -> None:
        super().__init__(f"it is busy ({code})")


class Libvirt:
    """A migration that takes no time."""

    uuid, name = UUID, "g"

    def __init__(self, world: World) -> None:
        self.world = world
        self.error: Optional[HostError] = None
        self.agent: Optional[frozenset[str]] = None
        self.runs = True

    def begin(self, _options: MigrationOptions) -> None:
        self.world.act("begin")
        if self.error is None:
            self.world.guest_at = "destination"

    def wait(self, _seconds: float) -> bool:
        return True

    def finish(self) -> None:
        if self.error is not None:
            raise self.error

    def states(self) -> dict[str, Optional[str]]:
        state = "running" if self.runs else "paused"
        return {end: state if end == self.world.guest_at else None for end in ("source", "destination")}

    def await_running(self, end: str) -> bool:
        return self.states()[end] == "running"

    def completed(self) -> Mapping[str, int]:
        return {"downtime": 123}

    def standstill_ms(self) -> Optional[float]:
        return 130.0

    def agent_macs(self) -> Optional[frozenset[str]]:
        return self.agent


class Counting:
    """A daemon whose ports count a frame at every look; it plugs in what arrives."""

    def __init__(self, world: World, *macs: str) -> None:
        self.world = world
        self.macs = macs
        self.frames = 0
        self.fails: Optional[VfmigrateError] = None

    def ask(self, name: str, _arguments: Mapping[str, Any], *, timeout: float = 20.0) -> Mapping[str, Any]:
        assert timeout > 0
        self.world.act(name)
        if name != "counters":
            return {"vf": "0000:41:00.2"}
        if self.fails is not None:
            raise self.fails
        self.frames += 1
        return {"ports": [{"mac": mac, "sent": self.frames, "received": 0} for mac in self.macs]}


class Arrived(Plugs):
    """The destination, whose daemon has plugged in what was reserved before anybody looks."""

    def text(self, mac: str) -> Optional[str]:
        assert mac == MAC
        return DEVICE


class Case:
    """One migration of a guest with these VFs."""

    def __init__(self, *migrating_vfs: MigratingVf) -> None:
        self.world = World()
        self.libvirt = Libvirt(self.world)
        self.destination_daemon = Counting(self.world, MAC)
        self.migrating_vfs: Sequence[MigratingVf] = migrating_vfs
        self.display = Display()
        self.cancelled = threading.Event()

    def run(self) -> MigrationReport:
        migration = Migration(
            cast("MigrationJob", self.libvirt),
            self.migrating_vfs,
            self.display,
            self.cancelled,
            source=HostClients(Counting(self.world), cast("HotPlug", Plugs(self.world, "source"))),
            destination=HostClients(
                self.destination_daemon, cast("HotPlug", Arrived(self.world, "destination"))
            ),
        )
        return migration.run(MigrationOptions(), ConvergenceLimits(1000))


def test_a_guest_without_vfs_is_only_migrated() -> None:
    case = Case()
    report = case.run()
    assert (report.arrived, report.downtime_ms, report.standstill_ms) == (True, 123, 130.0)
    assert (report.verified, report.problems) == ({}, [])
    assert case.world.done == ["begin"]


def test_a_vf_of_no_pool_is_not_verified() -> None:
    case = Case(MigratingVf(MAC, strategy.named("vfio")))
    report = case.run()
    assert (report.verified, report.problems) == ({}, [])
    assert case.world.done == ["begin"]


def test_the_traffic_of_a_vf_with_device_state_is_verified() -> None:
    case = Case(VFIO)
    report = case.run()
    assert report.verified == {MAC: "carries traffic (1 frames sent by the guest)"}
    assert report.problems == []
    assert case.world.done[0] == "begin"


def test_a_replugged_vf_is_reserved_unplugged_and_plugged_in() -> None:
    case = Case(REPLUG)
    report = case.run()
    assert case.world.done[:4] == ["claim", "claim", "source: detach", "begin"]
    assert case.display.events == ["claimed", "unplugged", "plugged"]
    assert report.away_ms[MAC] >= 0
    assert report.problems == []


def test_a_replugged_vf_is_plugged_back_when_the_migration_fails() -> None:
    case = Case(REPLUG)
    case.libvirt.error = HostError("no room", "make some")
    with pytest.raises(HostError, match="no room; the guest runs on the source; make some"):
        case.run()
    assert case.world.vf_at == "source"
    assert case.world.done[-2:] == ["source: attach", "give_back"]


def test_a_vf_that_cannot_be_plugged_back_is_reported() -> None:
    case = Case(REPLUG)
    case.libvirt.error = HostError("no room")
    case.world.fails["source: attach"] = HostError("it is taken")
    with pytest.raises(HostError, match=f"the guest runs on the source; {MAC} is without a VF: it is taken"):
        case.run()


def test_a_vf_that_libvirt_does_not_unplug_is_an_error_with_all_that_is_known() -> None:
    case = Case(REPLUG)
    case.world.fails["source: detach"] = Busy(38)
    case.world.fails["source: attach"] = HostError("it is taken")
    with pytest.raises(HostError, match="it is busy"):
        case.run()


def test_replug_without_pool_is_refused() -> None:
    case = Case(MigratingVf(MAC, strategy.named("replug")))
    with pytest.raises(Refused, match="but its pool or its MAC is not known"):
        case.run()
    assert case.world.done == []


def test_a_migration_that_is_cancelled_early_does_not_begin() -> None:
    case = Case(VFIO)
    case.cancelled.set()
    with pytest.raises(Cancelled, match="cancelled before it began"):
        case.run()
    assert case.world.done == []


def test_the_vf_is_verified_by_the_guest_agent() -> None:
    case = Case(VFIO)
    case.libvirt.agent = frozenset({MAC})
    assert case.run().verified[MAC].endswith("; reported by the guest agent")
    case = Case(VFIO)
    case.libvirt.agent = frozenset()
    assert case.run().problems == [f"the guest agent reports no interface with MAC {MAC}"]


def test_a_guest_that_is_paused_on_the_destination_is_a_problem() -> None:
    case = Case()
    case.libvirt.runs = False
    assert case.run().problems == ["the guest is paused on the destination"]


def test_a_daemon_that_does_not_report_ports_is_a_problem() -> None:
    case = Case(VFIO)
    case.destination_daemon.fails = Unreachable("vfmigrated on b does not answer")
    assert case.run().problems == ["could not verify the VFs' ports: vfmigrated on b does not answer"]
