# SPDX-License-Identifier: GPL-2.0-or-later
"""One migration from its beginning to its end, watched: told how far it is, helped along, or given up in good time.

What libvirt does is behind `Mover`, what is shown behind `Display`, so that every course it can take is tested without
either. The order of things with VFs that stay behind is `replug`'s.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Optional, Protocol

from vfmigrate.errors import Cancelled, HostError, Refused, VfmigrateError
from vfmigrate.migrate import convergence
from vfmigrate.migrate.convergence import Allow, Stop, Terms, Watch
from vfmigrate.model.progress import Display, Progress

#: seconds between two looks at libvirt's figures
PERIOD = 0.25
#: seconds that libvirt has for ending a migration that is to be given up; it then rolls back, which takes its time
ABORT_PATIENCE = 60.0


class Mover(Protocol):
    """What libvirt does (see transfer)."""

    name: str

    def wait(self, seconds: float) -> bool:
        """Wait for the end."""

    def finish(self) -> None:
        """Raise what went wrong."""

    def job(self) -> Optional[Mapping[str, int]]:
        """The figures of libvirt."""

    def abort(self) -> bool:
        """Give it up."""

    def allow_downtime(self, ms: int) -> None:
        """Let the guest stand still for longer."""

    def suspend(self) -> None:
        """Suspend the guest for the rest."""

    def states(self) -> dict[str, Optional[str]]:
        """Where the guest is."""


class Passage:
    """Waits for one migration, and acts on what it sees."""

    def __init__(
        self,
        mover: Mover,
        display: Display,
        terms: Terms,
        cancelled: threading.Event,
        *,
        timeout: Optional[float] = None,
        cancel_at_timeout: bool = False,
    ) -> None:
        """`timeout`: seconds after which the guest is suspended for the rest, or the migration cancelled."""
        self._mover = mover
        self._display = display
        self._watch = Watch(terms)
        self._cancelled = cancelled
        self._timeout = timeout
        self._cancel_at_timeout = cancel_at_timeout
        #: why it is being given up
        self._given_up: Optional[VfmigrateError] = None
        self._aborting = 0.0
        self._suspended = False
        self.last: Optional[Progress] = None

    def wait(self) -> None:
        """Return when the guest has arrived.

        Raises Cancelled or Refused when it was given up, HostError when it failed; the guest is on the source then,
        or the message says where it is.
        """
        waited = 0.0
        while not self._mover.wait(PERIOD):
            waited += PERIOD
            if self._cancelled.is_set() and self._given_up is None:
                self._give_up(Cancelled(f"the migration of guest '{self._mover.name}' was cancelled"))
            if self._given_up is not None:
                self._abort()
                continue
            self._look(waited)
        try:
            self._mover.finish()
        except VfmigrateError as error:
            self._end(error)
        if self._given_up is not None:
            self._display.tell("too-late", "it could not be given up any more: the guest has arrived")

    def _look(self, waited: float) -> None:
        stats = self._mover.job()
        if stats is not None:
            now = self.last = convergence.read(stats)
            if now.total or now.disk_total:  # nothing is known while the destination is being prepared
                self._display.progress(now, self._watch.allowed_ms)
            # A guest that is suspended for the rest writes no more: it comes to an end whatever it did before.
            verdict = None if self._suspended else self._watch.look(now)
            if isinstance(verdict, Allow):
                self._allow(verdict)
            elif isinstance(verdict, Stop):
                self._stop(verdict)
        if self._timeout is not None and waited >= self._timeout:
            self._timeout = None
            self._time_out(waited)

    def _stop(self, verdict: Stop) -> None:
        if self._timeout is not None:
            told = "be given up" if self._cancel_at_timeout else "be suspended for the rest"
            self._display.tell("waiting", f"{verdict.why}; after {self._timeout:.0f} s it will {told}")
            return
        self._give_up(
            Refused(
                f"the migration of guest '{self._mover.name}' does not come to an end: {verdict.why}",
                "; or ".join(verdict.remedies),
            )
        )

    def _allow(self, verdict: Allow) -> None:
        try:
            self._mover.allow_downtime(verdict.downtime_ms)
        except HostError:
            return  # it is at its end already
        self._display.tell(
            "downtime",
            f"{verdict.why}; allowed downtime is now {verdict.downtime_ms} ms",
            downtime_ms=verdict.downtime_ms,
        )

    def _time_out(self, waited: float) -> None:
        told = f"after {waited:.0f} s it is not done"
        if self._cancel_at_timeout:
            self._give_up(Refused(f"the migration of guest '{self._mover.name}' was given up: {told}"))
            return
        try:
            self._mover.suspend()
        except HostError as error:
            self._display.tell("suspend-failed", str(error))
            return
        self._suspended = True
        self._display.tell("suspended", f"{told}: the guest is suspended until it has arrived")

    def _give_up(self, reason: VfmigrateError) -> None:
        self._given_up = reason
        self._display.tell("cancelling", f"{reason.problem}: giving up, the guest stays")
        self._abort()

    def _abort(self) -> None:
        """Ask until it is heard: before QEMU has begun, libvirt takes the word and it may come to nothing."""
        self._mover.abort()
        self._aborting += PERIOD
        if self._aborting > ABORT_PATIENCE:
            raise HostError(
                f"libvirt does not end the migration of guest '{self._mover.name}' within {ABORT_PATIENCE:.0f} s: "
                f"{self.whereabouts()}",
                f"look at both hosts; virsh domjobabort {self._mover.name}",
            )

    def _end(self, error: VfmigrateError) -> None:
        """Raise what the failure of libvirt's call means."""
        raised = self._given_up if self._given_up is not None else error
        raise type(raised)(f"{raised.problem}; {self.whereabouts()}", raised.remedy) from None

    def whereabouts(self) -> str:
        """Where the guest is now, in words."""
        states = self._mover.states()
        if states["source"] == "running":
            return "the guest runs on the source"
        told = [f"{state} on the {end}" for end, state in states.items() if state is not None]
        return f"the guest is {' and '.join(told) or 'on neither host'}"
