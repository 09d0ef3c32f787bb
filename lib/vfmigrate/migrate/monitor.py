# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches one migration: shows its progress, raises the allowed downtime, suspends the guest, or cancels.

libvirt is behind `RunningMigration` and the output behind `Display`, so that every course is tested without either. The
steps of strategy replug are in `strategies.replug`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Optional, Protocol

from vfmigrate.errors import Cancelled, HostError, Refused, VfmigrateError
from vfmigrate.migrate import convergence
from vfmigrate.migrate.convergence import ConvergenceLimits, ConvergenceWatch, GiveUp, RaiseDowntime
from vfmigrate.model.progress import Display
from vfmigrate.text import quoted

#: seconds between two observations of libvirt's figures
PERIOD = 0.25
#: seconds that libvirt has for cancelling a migration, which includes its rollback
ABORT_TIMEOUT = 60.0


class RunningMigration(Protocol):
    """A migration that libvirt runs (virt.transfer)."""

    name: str

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it has ended."""

    def finish(self) -> None:
        """Raise its error, if it failed."""

    def job(self) -> Optional[Mapping[str, int]]:
        """Libvirt's figures."""

    def abort(self) -> bool:
        """Cancel it."""

    def allow_downtime(self, ms: int) -> None:
        """Raise the allowed downtime."""

    def suspend(self) -> None:
        """Suspend the guest until the end."""

    def states(self) -> dict[str, Optional[str]]:
        """The guest's state on each host."""


class MigrationMonitor:
    """Waits for one migration, and acts on its figures."""

    def __init__(
        self,
        migration: RunningMigration,
        display: Display,
        limits: ConvergenceLimits,
        cancelled: threading.Event,
        *,
        timeout: Optional[float] = None,
        cancel_at_timeout: bool = False,
    ) -> None:
        """`timeout`: seconds after which the guest is suspended, or the migration cancelled."""
        self._migration = migration
        self._display = display
        self._watch = ConvergenceWatch(limits)
        self._cancelled = cancelled
        self._timeout = timeout
        self._cancel_at_timeout = cancel_at_timeout
        #: why it is being cancelled
        self._reason: Optional[VfmigrateError] = None
        self._aborting = 0.0
        self._suspended = False

    def wait(self) -> None:
        """Return when the guest has arrived.

        Raises Cancelled or Refused if the migration was cancelled, HostError if it failed; the message says where the
        guest is.
        """
        waited = 0.0
        while not self._migration.wait(PERIOD):
            waited += PERIOD
            if self._cancelled.is_set() and self._reason is None:
                self._cancel(Cancelled(f"the migration of guest '{self._migration.name}' was cancelled"))
            if self._reason is not None:
                self._abort()
                continue
            self._observe(waited)
        try:
            self._migration.finish()
        except VfmigrateError as error:
            self._end(error)
        if self._reason is not None:
            self._display.event("too-late", "too late to cancel: the guest has arrived")

    def _observe(self, waited: float) -> None:
        stats = self._migration.job()
        if stats is not None:
            now = convergence.read(stats)
            if now.total or now.disk_total:  # both are 0 while the destination is being prepared
                self._display.progress(now, self._watch.allowed_ms)
            # A suspended guest dirties no memory, so the migration will end.
            verdict = None if self._suspended else self._watch.decide(now)
            if isinstance(verdict, RaiseDowntime):
                self._allow(verdict)
            elif isinstance(verdict, GiveUp):
                self._stop(verdict)
        if self._timeout is not None and waited >= self._timeout:
            self._timeout = None
            self._time_out(waited)

    def _stop(self, verdict: GiveUp) -> None:
        if self._timeout is not None:
            then = "the migration is cancelled" if self._cancel_at_timeout else "the guest is suspended"
            self._display.event("waiting", f"{verdict.why}; {then} after {self._timeout:.0f} s")
            return
        self._cancel(
            Refused(
                f"the migration of guest '{self._migration.name}' does not converge: {verdict.why}",
                "; or ".join(verdict.remedies),
            )
        )

    def _allow(self, verdict: RaiseDowntime) -> None:
        try:
            self._migration.allow_downtime(verdict.downtime_ms)
        except HostError:
            return  # it has ended meanwhile
        self._display.event(
            "downtime",
            f"{verdict.why}; raised the allowed downtime to {verdict.downtime_ms} ms",
            downtime_ms=verdict.downtime_ms,
        )

    def _time_out(self, waited: float) -> None:
        problem = f"the migration was not complete after {waited:.0f} s"
        if self._cancel_at_timeout:
            self._cancel(Refused(f"the migration of guest '{self._migration.name}' was cancelled: {problem}"))
            return
        try:
            self._migration.suspend()
        except HostError as error:
            self._display.event("suspend-failed", str(error))
            return
        self._suspended = True
        self._display.event("suspended", f"{problem}: suspended the guest until it has arrived")

    def _cancel(self, reason: VfmigrateError) -> None:
        self._reason = reason
        self._display.event("cancelling", f"{reason.problem}: cancelling, the guest stays on the source")
        self._abort()

    def _abort(self) -> None:
        """Cancel, again and again: before QEMU has begun, libvirt accepts it and it may have no effect."""
        self._migration.abort()
        self._aborting += PERIOD
        if self._aborting > ABORT_TIMEOUT:
            raise HostError(
                f"libvirt did not cancel the migration of guest '{self._migration.name}' within {ABORT_TIMEOUT:.0f} s: "
                f"{self.location()}",
                f"check both hosts, and run on the source: virsh domjobabort {quoted(self._migration.name)}",
            )

    def _end(self, error: VfmigrateError) -> None:
        """Raise the reason for the end, with the guest's location."""
        raised = self._reason if self._reason is not None else error
        raise raised.with_more(self.location()) from None

    def location(self) -> str:
        """Where the guest is, in words."""
        states = self._migration.states()
        if states["source"] == "running":
            return "the guest runs on the source"
        found = [f"{state} on the {end}" for end, state in states.items() if state is not None]
        return f"the guest is {' and '.join(found) or 'on neither host'}"
