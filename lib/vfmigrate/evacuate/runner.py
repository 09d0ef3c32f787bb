# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs an evacuation: migrates several guests at once, and plans again for a guest that a destination refuses.

How a guest is migrated and how hosts are observed comes from outside; planning and counting is in `planner`. Nothing is
recorded: a guest that has migrated is no longer on this host, so running the command again retries the rest.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Optional, Protocol

from vfmigrate.errors import Cancelled, VfmigrateError
from vfmigrate.evacuate import planner
from vfmigrate.evacuate.planner import Concurrency, Destination, EvacuatingGuest
from vfmigrate.model.host_facts import HostFacts

MOVED = "moved"
FAILED = "failed"
STAYED = "stayed"

_WAIT_SECONDS = 2.0
_EVENT_SECONDS = 0.2


@dataclass(frozen=True)
class Arrival:
    """A guest that runs on its destination."""

    downtime_ms: Optional[float] = None
    #: what is wrong with it there
    problems: tuple[str, ...] = ()


class DestinationRefused(Exception):
    """The destination refused a guest before anything was copied; another destination may take it."""

    def __init__(self, error: VfmigrateError) -> None:
        super().__init__(str(error))
        self.error = error


class EvacuationHosts(Protocol):
    """The hosts of an evacuation. `migrate` is called in several threads at once."""

    def observe(self) -> tuple[Optional[HostFacts], Sequence[Destination]]:
        """The facts of this host, and the destinations."""

    def migrate(
        self, guest: EvacuatingGuest, destination: Destination, cancelled: threading.Event
    ) -> Arrival:
        """Migrate one guest, and return when it has arrived.

        Raises DestinationRefused if the destination refused it before anything was copied, VfmigrateError if the
        migration failed.
        """

    def event(self, event: str, guest: EvacuatingGuest, destination: str, text: str) -> None:
        """Show an event of a guest."""


@dataclass
class GuestResult:
    """The result for one guest."""

    guest: EvacuatingGuest
    outcome: str = STAYED
    #: the last destination that was tried; None: none was
    destination: Optional[str] = None
    seconds: float = 0.0
    downtime_ms: Optional[float] = None
    #: why it did not migrate, or what is wrong with it there
    problems: tuple[str, ...] = ()
    error: Optional[VfmigrateError] = None
    #: all destinations that were tried, in order
    tried: list[str] = field(default_factory=list)


class Evacuation:
    """One evacuation."""

    def __init__(
        self,
        hosts: EvacuationHosts,
        cancelled: threading.Event,
        here: Optional[HostFacts],
        destinations: Sequence[Destination],
        jobs: int,
        *,
        period: float = _WAIT_SECONDS,
    ) -> None:
        """`period`: seconds between two observations while VFs of others fill the cards."""
        self._hosts = hosts
        self._cancelled = cancelled
        self._destinations = list(destinations)
        self._jobs = jobs
        self._period = period
        self._concurrency = Concurrency(jobs, here, destinations)
        self._refused: defaultdict[str, set[str]] = defaultdict(set)
        self._waiting: list[tuple[EvacuatingGuest, str]] = []
        self._results: dict[str, GuestResult] = {}
        self._may_retry = True
        self._wait_reported = False
        #: migrations that are running: the guest, its destination and when it began
        self._running: dict[Future[Arrival], tuple[EvacuatingGuest, str, float]] = {}

    def run(self, guests: Sequence[EvacuatingGuest], plan: planner.Plan) -> list[GuestResult]:
        """Migrate the guests by the plan; returns their results in the order given."""
        self._results = {guest.uuid: GuestResult(guest) for guest in guests}
        self._take_plan(guests, plan)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="evacuate") as threads:
            while self._continues():
                if not self._cancelled.is_set():
                    self._start(threads)
                if self._concurrency.migrating:
                    self._wait_for_end()
                elif self._waiting and not self._cancelled.is_set():
                    self._wait_for_others()
                else:
                    self._waiting.clear()
        for guest in guests:
            result = self._results[guest.uuid]
            if result.outcome == STAYED and not result.problems and self._cancelled.is_set():
                result.error = Cancelled("cancelled before its migration began")
                result.problems = (result.error.problem,)
        return [self._results[guest.uuid] for guest in guests]

    def _continues(self) -> bool:
        if self._waiting or self._concurrency.migrating:
            return True
        again = [self._results[uuid].guest for uuid in self._refused if self._results[uuid].outcome == STAYED]
        if not again or not self._may_retry or self._cancelled.is_set():
            return False
        # A refusal can be temporary: a VF may have been reserved for a guest that did not come.
        self._may_retry = False
        self._refused.clear()
        self._replan(again)
        return bool(self._waiting)

    def _take_plan(self, guests: Sequence[EvacuatingGuest], plan: planner.Plan) -> None:
        """Use a plan for the guests that wait."""
        self._waiting = [(guest, plan.moves[guest.uuid]) for guest in guests if guest.uuid in plan.moves]
        for guest in guests:
            if guest.uuid in plan.obstacles:
                result = self._results[guest.uuid]
                if not result.tried:
                    result.problems = (plan.obstacles[guest.uuid],)

    def _replan(self, more: Sequence[EvacuatingGuest]) -> None:
        _here, destinations = self._hosts.observe()
        self._destinations = list(destinations)
        guests = [*(guest for guest, _ in self._waiting), *more]
        plan = planner.plan(
            guests, destinations, refused=self._refused, migrating=self._concurrency.migrating
        )
        self._take_plan(guests, plan)

    def _start(self, threads: ThreadPoolExecutor) -> None:
        """Start all migrations that the limits allow."""
        left = []
        for guest, name in self._waiting:
            if not self._concurrency.can_start(guest, name):
                left.append((guest, name))
                continue
            self._concurrency.start(guest, name)
            result = self._results[guest.uuid]
            result.tried.append(name)
            result.destination = name
            destination = next(destination for destination in self._destinations if destination.name == name)
            self._hosts.event("begin", guest, name, f"migrating to {name}")
            migration = threads.submit(self._hosts.migrate, guest, destination, self._cancelled)
            self._running[migration] = (guest, name, time.monotonic())
        self._waiting = left

    def _wait_for_end(self) -> None:
        ended, _ = wait(self._running, timeout=_EVENT_SECONDS, return_when=FIRST_COMPLETED)
        for migration in ended:
            guest, destination, begun = self._running.pop(migration)
            self._concurrency.end(guest)
            seconds = time.monotonic() - begun
            self._results[guest.uuid].seconds += seconds
            self._record(migration, guest, destination, seconds)

    def _record(
        self, migration: Future[Arrival], guest: EvacuatingGuest, destination: str, seconds: float
    ) -> None:
        """Record and show the result of one migration. Raises what is a bug."""
        result = self._results[guest.uuid]
        try:
            arrival = migration.result()
        except DestinationRefused as refusal:
            result.problems, result.error = (str(refusal.error),), refusal.error
            self._hosts.event("refused", guest, destination, f"refused by {destination}: {refusal.error}")
            self._refused[guest.uuid].add(destination)
            if not self._cancelled.is_set():
                self._replan([guest])
        except VfmigrateError as error:
            result.outcome = STAYED if isinstance(error, Cancelled) else FAILED
            result.problems, result.error = (str(error),), error
            self._hosts.event("failed", guest, destination, f"not migrated: {error}")
        else:
            result.outcome, result.downtime_ms = MOVED, arrival.downtime_ms
            result.problems, result.error = arrival.problems, None
            downtime = f", downtime {arrival.downtime_ms:.0f} ms" if arrival.downtime_ms is not None else ""
            text = f"migrated to {destination} in {seconds:.1f} s{downtime}"
            self._hosts.event("arrived", guest, destination, text)

    def _wait_for_others(self) -> None:
        """Wait while VFs that are migrating for others fill the cards, and none of our guests is migrating."""
        if not self._wait_reported:
            self._wait_reported = True
            guest, destination = self._waiting[0]
            self._hosts.event(
                "waiting", guest, destination, "waiting: VFs that are migrating for others fill the cards"
            )
        self._cancelled.wait(self._period)
        here, destinations = self._hosts.observe()
        self._destinations = list(destinations)
        self._concurrency.update(here, destinations)
