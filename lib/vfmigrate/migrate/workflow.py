# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest moves to another host by the ways its VFs cross, and is looked at when it is there.

The order is: what can be known beforehand is checked, VFs that stay behind are taken out (replug), libvirt migrates
(passage), VFs are plugged in, and what arrived is verified. The doors come from outside.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate.domain.migrating_vf import Crossing, check_replug
from vfmigrate.errors import Cancelled, HostError, VfmigrateError
from vfmigrate.migrate.convergence import Terms
from vfmigrate.migrate.monitor import Passage
from vfmigrate.model.progress import Display
from vfmigrate.strategies.replug.ground import Desk, Ends
from vfmigrate.strategies.replug.replug import Outcome, Replug

if TYPE_CHECKING:  # the doors import libvirt-python, which tests of what is decided do without
    from vfmigrate.virt.devices import Devices
    from vfmigrate.virt.transfer import Options, Transfer

#: seconds in which frames through a VF's port are waited for after a migration; a silent guest sends none
TRAFFIC_SECONDS = 5.0
#: seconds that a guest has for taking its VF before that has a port: the one of a failover pair
JOIN_SECONDS = 20.0
_LOOK_SECONDS = 0.5


@dataclass
class Report:
    """How it went; times in ms."""

    arrived: bool = False
    total_ms: float = 0.0
    #: libvirt's figure of how long the guest stood still
    downtime_ms: Optional[int] = None
    #: the same by libvirt's events, as this command received them
    standstill_ms: Optional[float] = None
    #: how long each VF that stayed behind was away, by MAC
    away_ms: dict[str, float] = field(default_factory=dict)
    #: what was found out about each VF on the destination, by MAC
    verified: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Migration:
    """One migration of one guest."""

    def __init__(
        self,
        transfer: Transfer,
        crossings: Sequence[Crossing],
        display: Display,
        cancelled: threading.Event,
        *,
        near: Desk,
        far: Desk,
        source: Devices,
        destination: Devices,
    ) -> None:
        """`near` and `far` are the daemons of source and destination."""
        self.uuid, self.name = transfer.uuid, transfer.name
        self._transfer = transfer
        self.crossings = tuple(crossings)
        self._display = display
        self._cancelled = cancelled
        self._near, self._far = near, far
        self._source, self._destination = source, destination
        self._migrate: Callable[[], None] = lambda: None
        #: the MACs of VFs that are known not to have been plugged in
        self._missing: frozenset[str] = frozenset()
        self.report = Report()

    def run(
        self,
        options: Options,
        terms: Terms,
        *,
        timeout: Optional[float] = None,
        cancel_at_timeout: bool = False,
    ) -> Report:
        """Move the guest, and verify it. Raises VfmigrateError when it did not move."""
        begun = time.monotonic()
        replugged = [one for one in self.crossings if one.strategy == "replug"]
        for one in replugged:
            check_replug(self.name, one)
        passage = Passage(
            self._transfer,
            self._display,
            terms,
            self._cancelled,
            timeout=timeout,
            cancel_at_timeout=cancel_at_timeout,
        )

        def migrate() -> None:
            if self._cancelled.is_set():
                raise Cancelled(f"the migration of guest '{self.name}' was cancelled before it began")
            self._transfer.begin(options)
            passage.wait()

        self._migrate = migrate
        if replugged:
            self._replug(replugged)
        else:
            migrate()
        self.report.arrived = True
        self.report.total_ms = (time.monotonic() - begun) * 1000
        self._verify()
        return self.report

    def migrate(self) -> None:
        """The part that is libvirt's, called when the VFs that stay behind are out."""
        self._migrate()

    def _replug(self, replugged: Sequence[Crossing]) -> None:
        ends = Ends(
            self,
            replugged,
            self._source,
            self._destination,
            self._near,
            self._far,
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
            self.report.problems.append(f"{mac} is without a VF, the guest stays on its bond: {why}")

    def _raise(self, outcome: Outcome) -> None:
        """Say why it did not arrive, and what of it could not be put back."""
        left = "".join(f"; {mac} is without a VF: {why}" for mac, why in outcome.without_vf.items())
        failure = outcome.failure or HostError(outcome.failed)
        raise type(failure)(failure.problem + left, failure.remedy)

    # -- afterwards

    def _verify(self) -> None:
        if not self._transfer.await_running("destination"):
            state = self._transfer.states()["destination"]
            self.report.problems.append(f"the guest is {state or 'not there'} on the destination")
        completed = self._transfer.completed()
        self.report.downtime_ms = completed.get("downtime")
        self.report.standstill_ms = self._transfer.standstill_ms()
        if not self._macs():
            return
        try:
            self._verify_ports()
        except VfmigrateError as error:
            self.report.problems.append(f"the VFs' ports could not be looked at: {error}")
        self._verify_agent()

    def _macs(self) -> list[str]:
        """Those of the VFs that are ours to look at: of a pool."""
        return [one.mac for one in self.crossings if one.mac is not None and one.pool is not None]

    def _verify_ports(self) -> None:
        """Look whether the counters of the VFs' ports move."""
        first: dict[str, int] = {}
        moved: dict[str, int] = {}
        wanted = set(self._macs())
        begun = time.monotonic()
        while True:
            for mac, frames in self._counters().items():
                moved[mac] = frames - first.setdefault(mac, frames)
            patience = TRAFFIC_SECONDS if wanted <= set(first) else JOIN_SECONDS
            done = all(moved.get(mac, 0) for mac in wanted) or self._cancelled.is_set()
            if done or time.monotonic() > begun + patience:
                break
            time.sleep(_LOOK_SECONDS)
        for mac in self._macs():
            if moved.get(mac, 0):
                self.report.verified[mac] = (
                    f"carries traffic ({moved[mac]} frames of the guest's while we looked)"
                )
            elif mac in first:
                self.report.verified[mac] = (
                    f"is plugged; the guest sent no frame in {TRAFFIC_SECONDS:.0f} s, as a silent one does"
                )
            elif mac not in self._missing:
                self.report.problems.append(
                    f"the VF with MAC {mac} has no port on the destination: see vfmigrate status there"
                )

    def _counters(self) -> dict[str, int]:
        """Frames that the guest has sent through its ports on the destination, by MAC.

        What it receives says little: a bridge floods.
        """
        told: Any = self._far.ask("counters", {"domain": self.uuid})
        return {str(one["mac"]): int(one["sent"]) for one in told["ports"]}

    def _verify_agent(self) -> None:
        seen = self._transfer.agent_macs()
        if seen is None:
            return
        for mac in self._macs():
            if mac in seen:
                self.report.verified[mac] = (
                    f"{self.report.verified.get(mac, '')}; the guest's agent tells of it".lstrip("; ")
                )
            else:
                self.report.problems.append(f"the guest's agent tells of no interface with MAC {mac}")
