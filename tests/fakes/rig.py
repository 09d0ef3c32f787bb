# SPDX-License-Identifier: GPL-2.0-or-later
"""The one rig of the tests: a host in memory with the parts of the daemon on it.

Its clock stands still until a test changes `now`. No thread runs. A test module that needs more adds it in a subclass.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Callable, Optional, TypeVar

from tests.fakes.memory_host import MemoryHost
from vfmigrate.announce.announcer import Announcer
from vfmigrate.claims.claim_store import ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.converger import Converger
from vfmigrate.converge.services import HostServices
from vfmigrate.daemon.hook_handler import HookHandler
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.client_requests import ClientRequests
from vfmigrate.rules.driver_binding import KNOWS_VARIANTS

PF = PciAddress(0, 1, 0, 0)
POOL = Pool("data", (PF,), "br-data", vlans=frozenset({42, 43}))

AnyRig = TypeVar("AnyRig", bound="Rig")
#: makes rigs that are closed after the test
MakeRig = Callable[..., "Rig"]


class Rig:
    """A host in memory with claims and converger; other parts of the daemon are made when a test uses them."""

    def __init__(
        self,
        directory: Path,
        memory: Optional[MemoryHost] = None,
        config: Optional[Config] = None,
        *,
        make_store: Callable[[Path, Callable[[], float]], ClaimStore] = ClaimStore,
        libvirt_version: int = KNOWS_VARIANTS,
        journal: str = "no-journal",
    ) -> None:
        """`directory` is the test's own; `journal` is the name of the journal's socket in it."""
        self.directory = directory
        self.memory = memory or MemoryHost()
        self.now = 1000.0
        self.config = config or Config({"data": POOL})
        self.store = make_store(directory / "claims", lambda: self.now)
        self.log = Journal(directory / journal)
        self.converger = Converger(
            self.memory.host, self.config, self.store, libvirt_version=lambda: libvirt_version
        )
        self.services = HostServices(self.config, self.memory.host, self.store, self.converger, self.log)
        #: the UUIDs of the guests that have started
        self.started: list[str] = []

    @cached_property
    def hook_handler(self) -> HookHandler:
        """The part of the daemon that answers the hook."""
        return HookHandler(self.services, on_started=self.started.append)

    @cached_property
    def announcer(self) -> Announcer:
        """The part of the daemon that announces MACs."""
        return Announcer(self.config, self.memory.host, self.store, self.log)

    @cached_property
    def client_requests(self) -> ClientRequests:
        """The part of the daemon that answers clients."""
        return ClientRequests(self.services)

    def call(self, operation: str, xml: str, extra: str = "-", name: str = "") -> Optional[str]:
        """Call the hook; returns its XML, if it gives any."""
        return self.hook_handler.handle(operation, "begin", extra, xml, name=name)

    def run(self, xml: str) -> None:
        """Start a guest."""
        for operation in ("prepare", "start", "started"):
            assert self.call(operation, xml) is None

    def arrive(self, xml: str) -> str:
        """Have a guest migrate to this host; returns its XML here."""
        rewritten = self.call("migrate", xml)
        assert rewritten is not None
        self.run(rewritten)
        return rewritten

    def leave(self, xml: str, reason: str = "migrated") -> None:
        """Have a guest stop on this host."""
        self.call("stopped", xml)
        self.call("release", xml, reason)

    def close(self) -> None:
        """Close store and log, and stop the announcer."""
        if "announcer" in self.__dict__:
            self.announcer.stop()
        self.store.close()
        self.log.close()

    def __enter__(self: AnyRig) -> AnyRig:
        return self

    def __exit__(
        self,
        _type: Optional[type[BaseException]],
        _error: Optional[BaseException],
        _traceback: Optional[TracebackType],
    ) -> None:
        self.close()
