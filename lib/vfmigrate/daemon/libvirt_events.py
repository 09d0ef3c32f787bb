# SPDX-License-Identifier: GPL-2.0-or-later
"""Handle libvirt's events. Called in the event thread, which must not wait: the work goes to the event loop."""

from __future__ import annotations

from typing import Callable

from vfmigrate.announce.announcer import Announcer
from vfmigrate.converge.services import HostServices
from vfmigrate.daemon.domain_sync import DomainSync
from vfmigrate.daemon.event_loop import EventLoop
from vfmigrate.virt.lifecycle import PLUGGED_IN, UNPLUGGED, LifecycleEvent


class LibvirtEvents:
    """Handles events of domains and their devices."""

    def __init__(
        self,
        services: HostServices,
        domain_sync: DomainSync,
        announcer: Announcer,
        event_loop: EventLoop,
        *,
        on_resumed: Callable[[str], None] = lambda _uuid: None,
        on_started: Callable[[str], None] = lambda _uuid: None,
    ) -> None:
        """`on_resumed` is called with a guest that runs on after a migration, to here or not from here.

        `on_started` is called with a guest that was started here, from cold or from a file.
        """
        self._store = services.store
        self._domain_sync = domain_sync
        self._announcer = announcer
        self._event_loop = event_loop
        self._log = services.log
        self._on_resumed = on_resumed
        self._on_started = on_started

    def handle(self, event: LifecycleEvent) -> None:
        """Handle an event; returns at once."""
        uuid = event.uuid
        if event.event in (PLUGGED_IN, UNPLUGGED):
            self._event_loop.soon(uuid, lambda: self._domain_sync.follow(uuid))
            return
        if not self._store.of_domain(uuid):
            return
        self._log.event(
            f"{event.event}-{event.detail}",
            f"guest '{event.name}' {event.event} ({event.detail})",
            domain=event.name,
            uuid=uuid,
        )
        if (event.event, event.detail) == ("resumed", "migrated"):
            # The same event says that a migration away from here was rolled back. Announcing is right either way: the
            # guest runs here.
            self._announcer.announce(uuid)
            self._on_resumed(uuid)
            self._domain_sync.settle_soon(uuid)
        elif event.event == "started" and event.detail != "migrated":
            if event.detail == "restored":  # with another VF perhaps, or from another host
                self._announcer.announce(uuid)
            self._on_started(uuid)
            self._domain_sync.settle_soon(uuid)
