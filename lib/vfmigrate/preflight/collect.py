# SPDX-License-Identifier: GPL-2.0-or-later
"""Collects a `Snapshot` before a migration: asks both libvirts, both daemons, and the network.

Changes nothing. A value that cannot be collected is None; only a missing guest or libvirt is an error. The local
host's daemon is asked over its socket, any other through libvirt.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from vfmigrate.domain import migrating_guest
from vfmigrate.domain.migrating_guest import MigratingGuest
from vfmigrate.errors import VfmigrateError
from vfmigrate.model import host_facts
from vfmigrate.model.host_facts import HostFacts
from vfmigrate.model.libvirt_facts import UNLIMITED_MIBS, CpuFacts, LibvirtFacts
from vfmigrate.polling import poll
from vfmigrate.preflight import probe
from vfmigrate.preflight.snapshot import DESTINATION, SOURCE, AddressFacts, HostSnapshot, Snapshot
from vfmigrate.rpc import protocol
from vfmigrate.rpc.remote_client import RemoteClient
from vfmigrate.virt.capabilities import Capabilities, GuestState
from vfmigrate.virt.connection import LibvirtConnection, refuse_same_host

#: seconds that a daemon has for answering with its host's facts
FACTS_TIMEOUT = 15.0

# libvirt samples for a second, and reports the result a little later.
_MEASURE_TIMEOUT = 2.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class CheckOptions:
    """How the guest would be migrated."""

    #: bandwidth limit of the migration in MiB/s; None: the guest's own
    bandwidth_mibs: Optional[int] = None
    #: disks are copied
    copies_storage: bool = False


@dataclass(frozen=True)
class _DaemonAnswer:
    """A daemon's facts, and its clock compared to ours, in seconds."""

    facts: Optional[HostFacts] = None
    trouble: Optional[VfmigrateError] = None
    ahead: float = 0.0
    error: float = 0.0

    def naming(self, salt: str, paths: Sequence[str]) -> _DaemonAnswer:
        """The answer with the files by their paths, which the daemon was not given."""
        if self.facts is None:
            return self
        return replace(self, facts=host_facts.with_paths(self.facts, salt, paths))


class Collector:
    """Collects what decides whether a guest can migrate from `source` to `destination`."""

    def __init__(
        self, source: LibvirtConnection, destination: LibvirtConnection, *, socket: Path = protocol.SOCKET
    ) -> None:
        self._source, self._destination = source, destination
        self._here, self._there = Capabilities(source), Capabilities(destination)
        self._socket = socket

    def collect(self, name: str, options: Optional[CheckOptions] = None) -> Snapshot:
        """The snapshot for this guest. Raises Refused if there is no such guest or only one host, HostError."""
        options = options or CheckOptions()
        refuse_same_host(self._source, self._destination, name)
        state = self._here.guest(name)
        guest = migrating_guest.read(state.live, state.migratable)
        measuring = state.running and self._here.measure(name)
        here, there = self._here.libvirt(), self._there.libvirt()
        salt = secrets.token_hex(16)
        arguments = {"bridges": list(guest.bridges), **host_facts.file_arguments(salt, guest.paths)}
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(_ask, self._destination, there, arguments, self._socket)
            from_source = _ask(self._source, here, arguments, self._socket).naming(salt, guest.paths)
            from_destination = waiting.result().naming(salt, guest.paths)
        known = from_source.facts is not None and from_destination.facts is not None
        most = options.bandwidth_mibs if options.bandwidth_mibs is not None else state.bandwidth_mibs
        return Snapshot(
            guest=guest,
            running=state.running,
            source=HostSnapshot(SOURCE, here, from_source.facts, from_source.trouble),
            destination=HostSnapshot(DESTINATION, there, from_destination.facts, from_destination.trouble),
            vfs=tuple(migrating_guest.vfs(guest, from_source.facts)),
            cpu=self._cpu(guest),
            machine_problem=self._there.machine_problem(guest),
            name_conflict=self._there.namesake(state.name, state.uuid),
            clock_ahead=from_destination.ahead - from_source.ahead if known else None,
            clock_error=from_destination.error + from_source.error,
            address=self._address(there, from_destination.facts),
            dirty_mibs=self._measured(state) if measuring else None,
            bandwidth_mibs=most if most < UNLIMITED_MIBS else None,
            downtime_ms=state.downtime_ms,
            copies_storage=options.copies_storage,
        )

    def _cpu(self, guest: MigratingGuest) -> Optional[CpuFacts]:
        if guest.cpu is None:
            return None
        here = self._here.host_cpu(guest)
        # A CPU without a model is the host's own, so all of the source's CPU is compared.
        cpu = guest.cpu if guest.names_cpu else here
        if cpu is None:
            return CpuFacts(None, "libvirt of the source does not report the host's CPU")
        found = self._there.compare_cpu(guest, cpu)
        there = self._there.host_cpu(guest) if found.fits is False else None
        if here is None or there is None:
            return found
        return CpuFacts(False, found.problem, self._there.baseline(guest, [here, there]))

    def _address(self, there: LibvirtFacts, facts: Optional[HostFacts]) -> Optional[AddressFacts]:
        """How the source reaches the destination; only tested if this is the source."""
        if not self._source.is_local():
            return None
        host = facts.migration.host if facts is not None and facts.migration.host else there.hostname
        return probe.observe(host, facts.migration.port_min if facts is not None else 49152)

    def _measured(self, state: GuestState) -> Optional[float]:
        return poll(lambda: self._here.measured(state.name), _MEASURE_TIMEOUT, _POLL_SECONDS)


def _ask(
    connection: LibvirtConnection, libvirt: LibvirtFacts, arguments: Mapping[str, Any], socket: Path
) -> _DaemonAnswer:
    before = time.time()
    try:
        if connection.is_local():
            answer = protocol.ask("facts", arguments, path=socket, timeout=FACTS_TIMEOUT)
        else:
            answer = RemoteClient(connection.network_metadata(), libvirt.hostname).ask(
                "facts", arguments, timeout=FACTS_TIMEOUT
            )
        facts = host_facts.read(answer)
    except VfmigrateError as error:
        return _DaemonAnswer(trouble=error)
    after = time.time()
    return _DaemonAnswer(facts, ahead=facts.time - (before + after) / 2, error=(after - before) / 2)


def observed_host(connection: LibvirtConnection, socket: Path = protocol.SOCKET) -> HostSnapshot:
    """One host without a guest: what its libvirt and its daemon report, or why the daemon reports nothing."""
    libvirt = Capabilities(connection).libvirt()
    answer = _ask(connection, libvirt, {}, socket)
    return HostSnapshot(SOURCE, libvirt, answer.facts, answer.trouble)
