# SPDX-License-Identifier: GPL-2.0-or-later
"""Carries out an evacuation: several guests at once, elsewhere when a destination refuses, until nobody is left to try.

How one guest is moved and how hosts are looked at comes from outside; what is counted and planned is `evacuation`'s.
There is no record of what was done: a guest that has left is not here any more, so that asking again does the rest.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Optional, Protocol

from vfmigrate.errors import Cancelled, VfmigrateError
from vfmigrate.evacuate import planner
from vfmigrate.evacuate.planner import Lanes, Leaver, Place
from vfmigrate.model.host_facts import HostFacts

MOVED = "moved"
FAILED = "failed"
STAYED = "stayed"

_OTHERS_SECONDS = 2.0
_EVENT_SECONDS = 0.2


@dataclass(frozen=True)
class Arrival:
    """How a guest arrived."""

    downtime_ms: Optional[float] = None
    #: what is not as it should be there
    problems: tuple[str, ...] = ()


class TurnedAway(Exception):
    """A destination refused a guest before anything was copied; it may be tried elsewhere."""

    def __init__(self, error: VfmigrateError) -> None:
        super().__init__(str(error))
        self.error = error


class Ground(Protocol):
    """The hosts, as far as an evacuation acts on them. `move` is called in several threads at once."""

    def look(self) -> tuple[Optional[HostFacts], Sequence[Place]]:
        """This host and the destinations as they are now."""

    def move(self, guest: Leaver, place: Place, cancelled: threading.Event) -> Arrival:
        """Move one guest, and return when it is there.

        Raises TurnedAway when the destination refused it at once, VfmigrateError when it did not arrive.
        """

    def tell(self, event: str, guest: Leaver, place: str, text: str) -> None:
        """Something happened to a guest."""


@dataclass
class Fate:
    """What became of a guest."""

    guest: Leaver
    outcome: str = STAYED
    #: where it is, or was last tried; None when it was tried nowhere
    place: Optional[str] = None
    seconds: float = 0.0
    downtime_ms: Optional[float] = None
    #: why it did not move, or what is wrong with it there
    problems: tuple[str, ...] = ()
    error: Optional[VfmigrateError] = None
    #: the places that it was sent to, in order
    tried: list[str] = field(default_factory=list)


class Evacuator:
    """One evacuation."""

    def __init__(
        self,
        ground: Ground,
        cancelled: threading.Event,
        here: Optional[HostFacts],
        places: Sequence[Place],
        jobs: int,
        *,
        patience: float = _OTHERS_SECONDS,
    ) -> None:
        """`patience`: seconds between two looks whether others are done whose migrations fill a card."""
        self._ground = ground
        self._cancelled = cancelled
        self._places = list(places)
        self._jobs = jobs
        self._patience = patience
        self._lanes = Lanes(jobs, here, places)
        self._refused: defaultdict[str, set[str]] = defaultdict(set)
        self._waiting: list[tuple[Leaver, str]] = []
        self._fates: dict[str, Fate] = {}
        self._second_chance = True
        self._told_to_wait = False
        self._ended: queue.Queue[tuple[Leaver, str, float, Optional[Arrival], Optional[Exception]]] = (
            queue.Queue()
        )

    def run(self, guests: Sequence[Leaver], plan: planner.Plan) -> list[Fate]:
        """Move the guests as planned, as far as that goes; what became of each, in the order given."""
        self._fates = {guest.uuid: Fate(guest) for guest in guests}
        self._take(guests, plan)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="evacuate") as crew:
            while self._goes_on():
                if not self._cancelled.is_set():
                    self._send(crew)
                if self._lanes.under_way:
                    self._await_end()
                elif self._waiting and not self._cancelled.is_set():
                    self._await_others()
                else:
                    self._waiting.clear()
        for guest in guests:
            fate = self._fates[guest.uuid]
            if fate.outcome == STAYED and not fate.problems and self._cancelled.is_set():
                fate.error = Cancelled("cancelled before it set out")
                fate.problems = (fate.error.problem,)
        return [self._fates[guest.uuid] for guest in guests]

    def _goes_on(self) -> bool:
        if self._waiting or self._lanes.under_way:
            return True
        again = [self._fates[uuid].guest for uuid in self._refused if self._fates[uuid].outcome == STAYED]
        if not again or not self._second_chance or self._cancelled.is_set():
            return False
        # A refusal may have been of the moment: a VF that was promised to a guest which did not come after all.
        self._second_chance = False
        self._refused.clear()
        self._plan_anew(again)
        return bool(self._waiting)

    def _take(self, guests: Sequence[Leaver], plan: planner.Plan) -> None:
        """Take up a plan for guests that wait."""
        self._waiting = [(guest, plan.moves[guest.uuid]) for guest in guests if guest.uuid in plan.moves]
        for guest in guests:
            if guest.uuid in plan.stuck:
                fate = self._fates[guest.uuid]
                if not fate.tried:
                    fate.problems = (plan.stuck[guest.uuid],)

    def _plan_anew(self, more: Sequence[Leaver]) -> None:
        _here, places = self._ground.look()
        self._places = list(places)
        guests = [*(guest for guest, _ in self._waiting), *more]
        plan = planner.plan(guests, places, refused=self._refused, under_way=self._lanes.under_way)
        self._take(guests, plan)

    def _send(self, crew: ThreadPoolExecutor) -> None:
        """Let all set out that can."""
        left = []
        for guest, name in self._waiting:
            if not self._lanes.may_begin(guest, name):
                left.append((guest, name))
                continue
            self._lanes.begin(guest, name)
            fate = self._fates[guest.uuid]
            fate.tried.append(name)
            fate.place = name
            place = next(place for place in self._places if place.name == name)
            self._ground.tell("begin", guest, name, f"sets out for {name}")
            crew.submit(self._move, guest, place)
        self._waiting = left

    def _move(self, guest: Leaver, place: Place) -> None:
        begun = time.monotonic()
        arrival: Optional[Arrival] = None
        failure: Optional[Exception] = None
        try:
            arrival = self._ground.move(guest, place, self._cancelled)
        except Exception as error:  # noqa: BLE001 - told by whoever waits for it, and raised if it is a fault of ours
            failure = error
        self._ended.put((guest, place.name, time.monotonic() - begun, arrival, failure))

    def _await_end(self) -> None:
        try:
            guest, place, seconds, arrival, failure = self._ended.get(timeout=_EVENT_SECONDS)
        except queue.Empty:
            return
        self._lanes.end(guest)
        fate = self._fates[guest.uuid]
        fate.seconds += seconds
        if arrival is not None:
            fate.outcome, fate.downtime_ms = MOVED, arrival.downtime_ms
            fate.problems, fate.error = arrival.problems, None
            told = f", downtime {arrival.downtime_ms:.0f} ms" if arrival.downtime_ms is not None else ""
            self._ground.tell("arrived", guest, place, f"is on {place} after {seconds:.1f} s{told}")
        elif isinstance(failure, TurnedAway):
            fate.problems, fate.error = (str(failure.error),), failure.error
            self._ground.tell("refused", guest, place, f"was refused by {place}: {failure.error}")
            self._refused[guest.uuid].add(place)
            if not self._cancelled.is_set():
                self._plan_anew([guest])
        elif isinstance(failure, VfmigrateError):
            fate.outcome = STAYED if isinstance(failure, Cancelled) else FAILED
            fate.problems, fate.error = (str(failure),), failure
            self._ground.tell("failed", guest, place, f"did not move: {failure}")
        elif failure is not None:
            raise failure

    def _await_others(self) -> None:
        """Nothing of ours is on its way and nothing may begin: others' migrations fill the cards."""
        if not self._told_to_wait:
            self._told_to_wait = True
            guest, place = self._waiting[0]
            self._ground.tell("waiting", guest, place, "waits: VFs of others are on the move on its cards")
        self._cancelled.wait(self._patience)
        here, places = self._ground.look()
        self._places = list(places)
        self._lanes.look(here, places)
