# SPDX-License-Identifier: GPL-2.0-or-later
"""The rig with a libvirt that only remembers, and all that the daemon does of its own accord."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Optional, cast

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.networks import MemoryNetworks
from tests.fakes.rig import Rig
from vfmigrate.daemon.domain_sync import DomainSync
from vfmigrate.daemon.event_loop import EventLoop
from vfmigrate.daemon.libvirt_events import LibvirtEvents
from vfmigrate.daemon.reconciler import Listeners, Reconciler
from vfmigrate.domain import domain_xml
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.trace_mark import TraceMark
from vfmigrate.errors import HostError, Unreachable


class MemoryHypervisor(MemoryNetworks):
    """What `vfmigrate.virt.hypervisor.Hypervisor` shows of a libvirt, held in dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.domains: Optional[dict[str, str]] = {}
        self.definitions: dict[str, str] = {}
        self.stamps: dict[str, tuple[Mark, ...]] = {}
        #: what names the next migration of a domain
        self.traces: dict[str, TraceMark] = {}
        #: libvirt's statistics of the migration by which a domain arrived
        self.arrivals: dict[str, Mapping[str, int]] = {}
        self.defined: list[str] = []
        self.refusals = 0
        #: domains that are here and do not execute, as while they arrive
        self.paused: set[str] = set()
        #: domains on the move, and the VFs that were to be plugged in again
        self.moving: set[str] = set()
        self.plugged: list[str] = []
        self.did_plug = threading.Event()
        #: the UUIDs of domains about which libvirt does not answer
        self.silent: set[str] = set()
        #: happens after libvirt has answered and before the answer is read
        self.meanwhile: Callable[[], object] = lambda: None

    def running(self) -> Mapping[str, Optional[str]]:
        return {uuid: None if uuid in self.silent else xml for uuid, xml in self._answer().items()}

    def _answer(self) -> dict[str, str]:
        if self.domains is None:
            raise Unreachable("no connection to libvirt")
        answer = dict(self.domains)
        self.meanwhile()
        return answer

    def xml(self, uuid: str) -> Optional[str]:
        return self._answer().get(uuid)

    def migrating(self, uuid: str) -> bool:
        return uuid in self.moving

    def plug_again(self, uuid: str, mac: str, spare: Callable[[str], str]) -> None:
        assert mac in self._answer()[uuid]
        self.plugged.append(spare(self._answer()[uuid]))
        self.did_plug.set()

    def executing(self) -> frozenset[str]:
        return frozenset(self._answer()) - self.paused

    def stamp(self, uuid: str, marks: tuple[Mark, ...]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise HostError("libvirt: metadata: domain is locked")
        self.stamps[uuid] = marks

    def stamp_trace(self, uuid: str, mark: Optional[TraceMark]) -> None:
        self.traces.pop(uuid, None)
        if mark is not None:
            self.traces[uuid] = mark

    def arrival(self, uuid: str) -> Mapping[str, int]:
        return self.arrivals.get(uuid, {})

    def persistent_xml(self, uuid: str) -> Optional[str]:
        return self.definitions.get(uuid)

    def define(self, xml: str) -> None:
        self.defined.append(xml)


class SyncRig(Rig):
    """The rig with everything that the daemon has, its threads not started."""

    def __init__(
        self, directory: Path, *options: Any, libvirt: Optional[MemoryHypervisor] = None, **more: Any
    ) -> None:
        super().__init__(directory, *options, **more)
        self.libvirt = libvirt if libvirt is not None else MemoryHypervisor()
        door = cast(Any, self.libvirt)
        #: never started: work that is put back for later is done at once
        self.event_loop = EventLoop(self.log, period=lambda: self.config.reconcile_interval)
        #: the MACs of VFs that were unplugged, and the UUIDs of guests that arrived unnoticed
        self.unplugged: list[str] = []
        self.arrived: list[str] = []
        self.domain_sync = DomainSync(
            self.services,
            self.hook_handler.adoption,
            door,
            lambda _seconds, _uuid, work: self.log.attempt("event-loop-failed", work),
            on_unplugged=lambda claim: self.unplugged.append(str(claim.mac)),
        )
        self.reconciler = Reconciler(
            self.services, self.domain_sync, self.announcer, door, Listeners(arrived=self.arrived.append)
        )
        self.events = LibvirtEvents(self.services, self.domain_sync, self.announcer, self.event_loop)

    def start(self, xml: str) -> str:
        """Start a guest, in libvirt too; returns its UUID."""
        self.run(xml)
        self.change(xml)
        return domain_xml.read(xml).uuid

    def change(self, xml: str) -> None:
        """Have libvirt run a domain like this."""
        assert self.libvirt.domains is not None
        self.libvirt.domains[domain_xml.read(xml, lenient=True).uuid] = xml


def arrived(rig: SyncRig) -> str:
    rewritten = rig.hook_handler.handle("migrate", "begin", "-", guest(1, ELSEWHERE))
    assert rewritten is not None
    return rig.start(rewritten)


def plug_by_hand(rig: SyncRig, uuid: str, *changes: tuple[str, str]) -> None:
    """Devices of a running guest come and go, of which libvirt tells and no hook does."""
    assert rig.libvirt.domains is not None
    for old, new in changes:
        assert old in rig.libvirt.domains[uuid]
        rig.libvirt.domains[uuid] = rig.libvirt.domains[uuid].replace(old, new)
    rig.domain_sync.follow(uuid)
