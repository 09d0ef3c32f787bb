# SPDX-License-Identifier: GPL-2.0-or-later
"""One migration job in libvirt: starts it, reports progress, cancels it, and says where the guest is.

The migration is one long call in a thread of its own; meanwhile the command's thread makes the other calls, which
libvirt's connections allow. It has the rights of the user.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Optional

import libvirt

from vfmigrate.errors import HostError, VfmigrateError
from vfmigrate.model.migration_options import MigrationOptions
from vfmigrate.polling import until
from vfmigrate.virt.connection import LibvirtConnection
from vfmigrate.virt.errors import LibvirtError, failure_ignored, libvirt_call

#: seconds to wait for the events and the state of a domain after a call of libvirt that changes it
_SETTLING = 5.0

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
}


def _flags(options: MigrationOptions) -> int:
    """The flags of libvirt; post-copy is never among them, since QEMU cannot do it with a VF."""
    chosen = {
        libvirt.VIR_MIGRATE_LIVE: True,
        libvirt.VIR_MIGRATE_PERSIST_DEST: options.persistent,
        libvirt.VIR_MIGRATE_UNDEFINE_SOURCE: options.undefine_source,
        libvirt.VIR_MIGRATE_NON_SHARED_DISK: options.copy_storage == "all",
        libvirt.VIR_MIGRATE_NON_SHARED_INC: options.copy_storage == "inc",
        libvirt.VIR_MIGRATE_PARALLEL: options.parallel,
        libvirt.VIR_MIGRATE_TLS: options.tls,
        libvirt.VIR_MIGRATE_PEER2PEER: options.p2p,
        libvirt.VIR_MIGRATE_AUTO_CONVERGE: options.auto_converge,
        libvirt.VIR_MIGRATE_UNSAFE: options.unsafe,
    }
    return sum(flag for flag, on in chosen.items() if on)


def _parameters(options: MigrationOptions) -> dict[str, Any]:
    """The typed parameters of libvirt."""
    parameters = {
        libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: options.bandwidth,
        libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS: options.parallel_connections,
        libvirt.VIR_MIGRATE_PARAM_URI: options.migrate_uri,
    }
    return {name: value for name, value in parameters.items() if value is not None}


class MigrationJob:
    """One migration of one guest."""

    def __init__(
        self, source: LibvirtConnection, destination: LibvirtConnection, uri: str, name: str
    ) -> None:
        """Look the guest up and register for its events. Raises Refused when no guest has this name."""
        self._ends = {"source": source, "destination": destination}
        self._uri = uri
        self._domain = source.domain(name)
        self.uuid = str(self._domain.UUIDString())
        self.name = str(self._domain.name())
        self._paused: Optional[float] = None
        self._resumed: Optional[float] = None
        self._done = threading.Event()
        self._error: Optional[str] = None
        lifecycle = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        with libvirt_call("events of guests"):
            source.handle.domainEventRegisterAny(None, lifecycle, self._on_source, None)
            destination.handle.domainEventRegisterAny(None, lifecycle, self._on_destination, None)

    # -- libvirt's events: when the guest was paused, by this process's clock

    def _on_source(self, _connection: object, domain: Any, event: int, detail: int, _opaque: object) -> None:
        now = time.monotonic()
        suspended = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED)
        if domain.UUIDString() == self.uuid and (event, detail) == suspended:
            self._paused = now

    def _on_destination(
        self, _connection: object, domain: Any, event: int, detail: int, _opaque: object
    ) -> None:
        now = time.monotonic()
        resumed = (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED)
        if domain.UUIDString() == self.uuid and (event, detail) == resumed:
            self._resumed = now

    def standstill_ms(self) -> Optional[float]:
        """Milliseconds from the event that the guest paused on the source to the one that it runs on the destination.

        None when one of them is missing. Both are timed where this command runs.
        """
        until(lambda: self._paused is not None and self._resumed is not None, _SETTLING, 0.05)
        if self._paused is None or self._resumed is None or self._resumed < self._paused:
            return None
        return (self._resumed - self._paused) * 1000

    # -- the migration

    def begin(self, options: MigrationOptions) -> None:
        """Start the migration; returns at once."""
        threading.Thread(target=self._run, args=(options,), name="migrate", daemon=True).start()

    def _run(self, options: MigrationOptions) -> None:
        destination = self._ends["destination"].handle.unbounded
        # as long as the migration takes; keep-alive notices that libvirt is gone
        domain = self._domain.unbounded
        try:
            with libvirt_call("migration"):
                if options.p2p:
                    domain.migrateToURI3(self._uri, _parameters(options), _flags(options))
                else:
                    domain.migrate3(destination, _parameters(options), _flags(options))
        except LibvirtError as error:
            self._error = error.reason
        except Exception as error:  # noqa: BLE001 - raised by finish(); a thread that ended silently would be waited for for ever
            self._error = f"{type(error).__name__}: {error}"
        finally:
            self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the migration; false when it has not ended after `seconds`."""
        return self._done.wait(seconds)

    def finish(self) -> None:
        """After the end: raises HostError with libvirt's reason when it failed."""
        if self._error is not None:
            raise HostError(f"the migration of guest '{self.name}' failed: {self._error}")

    def job(self) -> Optional[Mapping[str, int]]:
        """Libvirt's statistics of the job; None when there are none, before and after QEMU's part."""
        with failure_ignored():
            stats: Mapping[str, int] = self._domain.jobStats(0)
            if stats.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE:
                return stats
        return None

    def abort(self) -> bool:
        """Ask libvirt to cancel the migration; False while there is no job to cancel."""
        with failure_ignored():
            self._domain.abortJob()
            return True
        return False

    def allow_downtime(self, ms: int) -> None:
        """Set the maximum downtime. Raises HostError, for example when the migration has just ended."""
        with libvirt_call("allowed downtime"):
            self._domain.migrateSetMaxDowntime(ms, 0)

    def suspend(self) -> None:
        """Suspend the guest on the source, so that it dirties no more memory; it resumes on the destination."""
        with libvirt_call("suspending the guest"):
            self._domain.suspend()

    # -- afterwards

    def states(self) -> dict[str, Optional[str]]:
        """The guest's state on `source` and `destination`; None where it is not, and where libvirt does not answer."""
        return {end: self._state(connection) for end, connection in self._ends.items()}

    def _state(self, connection: LibvirtConnection) -> Optional[str]:
        with failure_ignored():
            state, _reason = connection.handle.lookupByUUIDString(self.uuid).state()
            return _STATES.get(state, "in an unknown state")
        return None

    def await_running(self, end: str, seconds: float = _SETTLING) -> bool:
        """Wait until the guest runs at one end; False when it does not after `seconds`."""
        return until(lambda: self._state(self._ends[end]) == "running", seconds, 0.1)

    def completed(self) -> Mapping[str, int]:
        """Libvirt's statistics of the completed job, from the destination; empty without any."""
        flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
        with failure_ignored():
            stats: Mapping[str, int] = self._arrived().jobStats(flags)
            return stats
        return {}

    def _arrived(self) -> Any:
        return self._ends["destination"].handle.lookupByUUIDString(self.uuid)

    def xml(self, end: str) -> str:
        """The running guest's XML at one end. Raises HostError when it is not there."""
        with libvirt_call(f"guest '{self.name}'"):
            return str(self._ends[end].handle.lookupByUUIDString(self.uuid).XMLDesc(0))

    def agent_macs(self) -> Optional[frozenset[str]]:
        """The MACs that the guest agent reports on the destination; None when no agent answers."""
        if "name='org.qemu.guest_agent.0' state='connected'" not in self._xml_or_nothing():
            return None
        with failure_ignored():
            found = self._arrived().interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
            return frozenset(str(each["hwaddr"]).lower() for each in found.values() if each.get("hwaddr"))
        return None

    def _xml_or_nothing(self) -> str:
        try:
            return self.xml("destination")
        except VfmigrateError:
            return ""
