# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of a migration that leaves a guest's VFs behind and takes others on the destination, and the ways back.

Pure: what is done to guest and hosts is behind `Ground`. The order is what keeps the guest connected: nothing is taken
from it before everything it will need is promised, and what was taken is put back wherever it then runs. A guest that
has arrived is never sent back: it stays on its standby until a VF can be plugged in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional, Protocol

from vfmigrate.errors import Cancelled, Refused, Unreachable, VfmigrateError


class Ground(Protocol):
    """Guest and hosts, as far as the engine acts on them; everything may raise VfmigrateError and waits bounded."""

    def claim(self, mac: str) -> None:
        """Promise a VF of the destination to the interface with this MAC."""

    def give_back(self, mac: str) -> None:
        """Take that promise back."""

    def unplug(self, mac: str) -> None:
        """Take the VF out of the guest on the source; returns when the guest has let go. Raises when it has not."""

    def has_vf(self, mac: str) -> bool:
        """Whether the guest on the source has its VF."""

    def plug_back(self, mac: str) -> None:
        """Plug the VF into the guest on the source again, as it was."""

    def migrate(self) -> None:
        """Migrate the guest, which has no VF now."""

    def plug(self, mac: str) -> None:
        """Plug the promised VF into the guest on the destination: the same MAC, the same guest PCI address."""


@dataclass
class Outcome:
    """How it ended."""

    #: the guest runs on the destination
    arrived: bool = False
    #: why it did not arrive
    failed: str = ""
    failure: Optional[VfmigrateError] = None
    #: what could not be put right, by MAC: these interfaces are without a VF, and are to be tried again
    without_vf: dict[str, str] = field(default_factory=dict)
    #: what happened, in order, for the log
    steps: list[str] = field(default_factory=list)


class Replug:
    """One such migration."""

    def __init__(self, ground: Ground, macs: Sequence[str]) -> None:
        """`macs` are the interfaces whose VFs stay behind."""
        self._ground = ground
        self._macs = tuple(macs)
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Do it.

        Raises Refused when the destination has nothing to promise, Unreachable when it cannot be asked, Cancelled when
        it shall not be any more: then nothing was touched.
        """
        self._claim()
        try:
            for mac in self._macs:
                self._ground.unplug(mac)
                self._tell(f"unplugged {mac}")
            self._ground.migrate()
        except VfmigrateError as error:
            self._outcome.failed, self._outcome.failure = str(error), error
            self._tell(f"failed: {error}")
            self._put_back()
            return self._outcome
        self._outcome.arrived = True
        self._tell("migrated")
        for mac in self._macs:
            self._plug(mac)
        return self._outcome

    def retry(self) -> Outcome:
        """Try again to plug in what is missing, wherever the guest is."""
        for mac in list(self._outcome.without_vf):
            del self._outcome.without_vf[mac]
            if self._outcome.arrived:
                self._plug(mac)
            else:
                self._plug_back(mac)
        return self._outcome

    def _claim(self) -> None:
        claimed: list[str] = []
        for mac in self._macs:
            try:
                self._ground.claim(mac)
            except VfmigrateError as error:
                for each in claimed:
                    self._give_back(each)
                if isinstance(error, (Cancelled, Unreachable)):
                    raise
                raise Refused(error.problem, error.remedy) from None
            claimed.append(mac)
            self._tell(f"claimed a VF for {mac}")

    def _put_back(self) -> None:
        for mac in self._macs:
            self._plug_back(mac)
            self._give_back(mac)

    def _plug_back(self, mac: str) -> None:
        """Also a guest that was too slow to let go in time may have done so since."""
        try:
            if not self._ground.has_vf(mac):
                self._ground.plug_back(mac)
                self._tell(f"plugged {mac} back")
        except VfmigrateError as error:
            self._outcome.without_vf[mac] = str(error)
            self._tell(f"{mac} is without a VF: {error}")

    def _plug(self, mac: str) -> None:
        try:
            self._ground.plug(mac)
            self._tell(f"plugged {mac}")
        except VfmigrateError as error:
            self._outcome.without_vf[mac] = str(error)
            self._tell(f"{mac} is without a VF: {error}")

    def _give_back(self, mac: str) -> None:
        try:
            self._ground.give_back(mac)
        except VfmigrateError as error:
            self._tell(f"the promise for {mac} was not taken back and runs out: {error}")

    def _tell(self, step: str) -> None:
        self._outcome.steps.append(step)
