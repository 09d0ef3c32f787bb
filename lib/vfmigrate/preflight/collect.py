# SPDX-License-Identifier: GPL-2.0-or-later
"""Gathers all that can be known before a guest moves (prospect.py): asks both libvirts, both daemons, and the network.

Changes nothing. What somebody does not tell is left out and said as such; only a guest or a libvirt that is not there
ends it. The daemon of the host at hand is asked over its socket, any other through libvirt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from vfmigrate.domain import migrating_guest
from vfmigrate.domain.migrating_guest import Traveller
from vfmigrate.errors import VfmigrateError
from vfmigrate.model import host_facts
from vfmigrate.model.host_facts import HostFacts
from vfmigrate.model.libvirt_facts import UNLIMITED_MIBS, CpuFacts, LibvirtFacts
from vfmigrate.preflight import probe
from vfmigrate.preflight.snapshot import DESTINATION, SOURCE, AddressFacts, Prospect, Side
from vfmigrate.rpc import protocol
from vfmigrate.rpc.remote_client import Remote
from vfmigrate.virt.capabilities import GuestState, Outlook
from vfmigrate.virt.session import Session

#: seconds that a daemon may take to tell its host's facts
PATIENCE = 15.0

# libvirt samples for a second, and tells a little later that it is done.
_MEASURE_PATIENCE = 2.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Wish:
    """How a guest would be moved."""

    #: MiB/s that the migration may use; None: what is set for the guest
    bandwidth_mibs: Optional[int] = None
    #: disks are copied along
    copies_storage: bool = False


@dataclass(frozen=True)
class _Told:
    """A daemon's facts, and what they say of its clock as compared to ours, in seconds."""

    facts: Optional[HostFacts] = None
    trouble: Optional[VfmigrateError] = None
    ahead: float = 0.0
    error: float = 0.0


class Scout:
    """Looks at a guest's prospects; `source` and `destination` are sessions with both libvirts."""

    def __init__(self, source: Session, destination: Session, *, socket: Path = protocol.SOCKET) -> None:
        self._source, self._destination = source, destination
        self._here, self._there = Outlook(source), Outlook(destination)
        self._socket = socket

    def look(self, name: str, wish: Optional[Wish] = None) -> Prospect:
        """All that is known of this guest's move. Raises Refused when there is no such guest, HostError."""
        wish = wish or Wish()
        state = self._here.guest(name)
        guest = migrating_guest.read(state.live, state.migratable)
        measuring = state.running and self._here.measure(name)
        here, there = self._here.libvirt(), self._there.libvirt()
        asked = {"bridges": list(guest.bridges), "files": guest.paths}
        with ThreadPoolExecutor(2) as both:
            waiting = both.submit(self._ask, self._destination, there, asked)
            told_here = self._ask(self._source, here, asked)
            told_there = waiting.result()
        known = told_here.facts is not None and told_there.facts is not None
        most = wish.bandwidth_mibs if wish.bandwidth_mibs is not None else state.bandwidth_mibs
        return Prospect(
            guest=guest,
            running=state.running,
            source=Side(SOURCE, here, told_here.facts, told_here.trouble),
            destination=Side(DESTINATION, there, told_there.facts, told_there.trouble),
            vfs=tuple(migrating_guest.vfs(guest, told_here.facts)),
            cpu=self._cpu(guest),
            machine_problem=self._there.machine_problem(guest),
            namesake=self._there.namesake(state.name, state.uuid),
            clock_ahead=told_there.ahead - told_here.ahead if known else None,
            clock_error=told_there.error + told_here.error,
            address=self._address(there, told_there.facts),
            dirty_mibs=self._measured(state) if measuring else None,
            bandwidth_mibs=most if most < UNLIMITED_MIBS else None,
            copies_storage=wish.copies_storage,
        )

    def _ask(self, session: Session, libvirt: LibvirtFacts, asked: Mapping[str, Any]) -> _Told:
        before = time.time()
        try:
            if session.is_local():
                answer = protocol.ask("facts", asked, path=self._socket, timeout=PATIENCE)
            else:
                answer = Remote(session.mailbox(), libvirt.hostname).ask("facts", asked, timeout=PATIENCE)
            told = host_facts.read(answer)
        except VfmigrateError as error:
            return _Told(trouble=error)
        after = time.time()
        return _Told(told, ahead=told.time - (before + after) / 2, error=(after - before) / 2)

    def _cpu(self, guest: Traveller) -> Optional[CpuFacts]:
        if guest.cpu is None:
            return None
        here = self._here.host_cpu(guest)
        # A CPU that is not spelled out is the host's own, and all of that would be missed.
        cpu = guest.cpu if guest.names_cpu else here
        if cpu is None:
            return CpuFacts(None, "the source does not tell its own")
        found = self._there.compare_cpu(guest, cpu)
        there = self._there.host_cpu(guest) if found.fits is False else None
        if here is None or there is None:
            return found
        return CpuFacts(False, found.problem, self._there.baseline(guest, [here, there]))

    def _address(self, there: LibvirtFacts, told: Optional[HostFacts]) -> Optional[AddressFacts]:
        """How the source finds the destination; only the source itself can tell."""
        if not self._source.is_local():
            return None
        host = told.migration.host if told is not None and told.migration.host else there.hostname
        return probe.look(host, told.migration.port_min if told is not None else 49152)

    def _measured(self, state: GuestState) -> Optional[float]:
        end = time.monotonic() + _MEASURE_PATIENCE
        while True:
            rate = self._here.measured(state.name)
            if rate is not None or time.monotonic() > end:
                return rate
            time.sleep(_LOOK_SECONDS)
