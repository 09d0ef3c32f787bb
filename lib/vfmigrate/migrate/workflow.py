# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrates a guest by the strategies of its VFs, and verifies it on the destination.

The order: VFs with strategy replug are unplugged, libvirt migrates the guest (`monitor`), VFs are plugged on the
destination, and all VFs are verified. The connections come from outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.domain import trace_mark
from vfmigrate.domain.migrating_vf import MigratingVf, check_replug
from vfmigrate.errors import Cancelled, HostError, VfmigrateError
from vfmigrate.migrate.convergence import ConvergenceLimits
from vfmigrate.migrate.monitor import MigrationMonitor
from vfmigrate.model.migration_options import MigrationOptions
from vfmigrate.model.progress import Display
from vfmigrate.polling import poll
from vfmigrate.strategies.replug.replug_hosts import HostClients, ReplugHosts
from vfmigrate.strategies.replug.sequence import Replug, ReplugResult

if TYPE_CHECKING:  # these import libvirt-python, which the unit tests do without
    from vfmigrate.virt.migration_job import MigrationJob

#: seconds to wait for frames through a VF's port after a migration; a silent guest sends none
TRAFFIC_SECONDS = 5.0
#: seconds to wait for the port of a failover pair's VF, which is up only when the guest's driver has the VF
JOIN_SECONDS = 20.0
_POLL_SECONDS = 0.5


@dataclass
class MigrationReport:
    """The result; times in ms. Its fields are those of the event `end` (docs/migrate.md)."""

    arrived: bool = False
    total_ms: float = 0.0
    #: the downtime by libvirt
    downtime_ms: Optional[int] = None
    #: the downtime by libvirt's events, as this command received them
    standstill_ms: Optional[float] = None
    #: how long the guest was without each VF of strategy replug, by MAC
    away_ms: dict[str, float] = field(default_factory=dict)
    #: what was verified of each VF on the destination, by MAC
    verified: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _LibvirtMigration:
    """The part that libvirt does, without VFs of strategy replug."""

    def __init__(
        self,
        transfer: MigrationJob,
        options: MigrationOptions,
        monitor: MigrationMonitor,
        cancelled: threading.Event,
    ) -> None:
        self.uuid, self.name = transfer.uuid, transfer.name
        self._transfer, self._options = transfer, options
        self._monitor, self._cancelled = monitor, cancelled

    def migrate(self) -> None:
        """Migrate, and return when the guest has arrived. Raises VfmigrateError."""
        if self._cancelled.is_set():
            raise Cancelled(f"the migration of guest '{self.name}' was cancelled before it began")
        self._transfer.begin(self._options)
        self._monitor.wait()


class Migration:
    """One migration of one guest."""

    def __init__(
        self,
        transfer: MigrationJob,
        migrating_vfs: Sequence[MigratingVf],
        display: Display,
        cancelled: threading.Event,
        *,
        source: HostClients,
        destination: HostClients,
    ) -> None:
        self.uuid, self.name = transfer.uuid, transfer.name
        self._transfer = transfer
        self.migrating_vfs = tuple(migrating_vfs)
        self._display = display
        self._cancelled = cancelled
        self._source, self._destination = source, destination
        #: the MACs of VFs that could not be plugged on the destination
        self._missing: frozenset[str] = frozenset()
        self.report = MigrationReport()

    def fall_back(self, macs: Collection[str]) -> None:
        """Replug the VFs with these MACs, whatever their strategy is."""
        self.migrating_vfs = tuple(
            replace(one, falls_back=True) if one.mac in macs else one for one in self.migrating_vfs
        )

    def run(
        self,
        options: MigrationOptions,
        limits: ConvergenceLimits,
        *,
        timeout: Optional[float] = None,
        cancel_at_timeout: bool = False,
    ) -> MigrationReport:
        """Migrate the guest, and verify it. Raises VfmigrateError if it did not migrate."""
        begun = time.monotonic()
        replugged = [one for one in self.migrating_vfs if one.unplugged_first]
        for one in replugged:
            check_replug(self.name, one, self.migrating_vfs)
        monitor = MigrationMonitor(
            self._transfer,
            self._display,
            limits,
            self._cancelled,
            timeout=timeout,
            cancel_at_timeout=cancel_at_timeout,
        )
        migration = _LibvirtMigration(self._transfer, options, monitor, self._cancelled)
        if replugged:
            self._replug(replugged, migration)
        else:
            migration.migrate()
        self.report.arrived = True
        self.report.total_ms = (time.monotonic() - begun) * 1000
        self._verify()
        return self.report

    def _replug(self, replugged: Sequence[MigratingVf], migration: _LibvirtMigration) -> None:
        ends = ReplugHosts(
            migration,
            replugged,
            self._source,
            self._destination,
            self._display,
            self._cancelled,
        )
        outcome = Replug(ends, [one.mac or "" for one in replugged]).run()
        self.report.away_ms = {
            mac: (back - ends.out[mac]) * 1000 for mac, back in ends.back.items() if mac in ends.out
        }
        if not outcome.arrived:
            self._raise(outcome)
        self._missing = frozenset(outcome.without_vf)
        for mac, why in outcome.without_vf.items():
            self.report.problems.append(
                f"{mac} is without a VF, the guest uses the other port of its bond: {why}"
            )

    def _raise(self, outcome: ReplugResult) -> None:
        """Raise why the guest did not arrive, with the VFs that could not be plugged back."""
        left = "; ".join(f"{mac} is without a VF: {why}" for mac, why in outcome.without_vf.items())
        failure = outcome.failure or HostError(outcome.failed)
        raise failure.with_more(left)

    def trace(self) -> Optional[str]:
        """The ID of this migration in the logs of both hosts (domain/trace_mark.py); None where the guest has none."""
        mark = trace_mark.of_domain(self._transfer.xml("source"))
        return mark.id if mark is not None else None

    # -- verification

    def _verify(self) -> None:
        if not self._transfer.await_running("destination"):
            state = self._transfer.states()["destination"]
            self.report.problems.append(f"the guest is {state or 'missing'} on the destination")
        completed = self._transfer.completed()
        self.report.downtime_ms = completed.get("downtime")
        self.report.standstill_ms = self._transfer.standstill_ms()
        if not self._macs():
            return
        try:
            self._verify_ports()
        except VfmigrateError as error:
            self.report.problems.append(f"could not verify the VFs' ports: {error}")
        self._verify_agent()

    def _macs(self) -> list[str]:
        """The MACs of the VFs that belong to a pool."""
        return [one.mac for one in self.migrating_vfs if one.mac is not None and one.pool is not None]

    def _verify_ports(self) -> None:
        """Verify that each VF has a port, and frames of the guest pass it."""
        first: dict[str, int] = {}
        moved: dict[str, int] = {}
        wanted = set(self._macs())
        begun = time.monotonic()

        def complete() -> Optional[bool]:
            for mac, frames in self._counters().items():
                moved[mac] = frames - first.setdefault(mac, frames)
            if all(moved.get(mac, 0) for mac in wanted) or self._cancelled.is_set():
                return True
            return (wanted <= set(first) and time.monotonic() > begun + TRAFFIC_SECONDS) or None

        poll(complete, JOIN_SECONDS, _POLL_SECONDS)
        for mac in self._macs():
            if moved.get(mac, 0):
                self.report.verified[mac] = f"carries traffic ({moved[mac]} frames sent by the guest)"
            elif mac in first:
                self.report.verified[mac] = f"is plugged; the guest sent no frame in {TRAFFIC_SECONDS:.0f} s"
            elif mac not in self._missing:
                self.report.problems.append(
                    f"the VF with MAC {mac} has no port on the destination; run there: vfmigrate status"
                )

    def _counters(self) -> dict[str, int]:
        """Frames that the guest has sent through its ports on the destination, by MAC.

        Received frames prove little: a bridge floods.
        """
        answer: Any = self._destination.daemon.ask("counters", {"domain": self.uuid})
        return {str(one["mac"]): int(one["sent"]) for one in answer["ports"]}

    def _verify_agent(self) -> None:
        seen = self._transfer.agent_macs()
        if seen is None:
            return
        for mac in self._macs():
            if mac in seen:
                self.report.verified[mac] = (
                    f"{self.report.verified.get(mac, '')}; reported by the guest agent".lstrip("; ")
                )
            else:
                self.report.problems.append(f"the guest agent reports no interface with MAC {mac}")
