# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of a migration that leaves a guest's VFs behind and takes others on the destination, and the ways back.

Pure: what is done to guest and hosts is behind `GuestAndHosts`. The order keeps the guest connected: no VF is taken
from it before all that it will need are reserved, and what was taken is plugged in again wherever the guest then runs.
A guest that has arrived is never sent back: it stays on its standby until a VF can be plugged in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Optional, Protocol

from vfmigrate.errors import Cancelled, Refused, Unreachable, VfmigrateError


class GuestAndHosts(Protocol):
    """Guest and hosts, as far as the sequence acts on them; everything may raise VfmigrateError and waits bounded."""

    def claim(self, mac: str) -> None:
        """Reserve a VF of the destination for the interface with this MAC."""

    def give_back(self, mac: str) -> None:
        """Cancel the reservation."""

    def unplug(self, mac: str) -> None:
        """Take the VF out of the guest on the source; returns when the guest released it, else raises."""

    def has_vf(self, mac: str) -> bool:
        """Whether the guest on the source has its VF."""

    def plug_back(self, mac: str) -> None:
        """Plug the VF into the guest on the source again, as it was."""

    def migrate(self) -> None:
        """Migrate the guest, which has no VF now."""

    def plug(self, mac: str) -> None:
        """Plug the reserved VF into the guest on the destination: the same MAC, the same guest PCI address."""


@dataclass
class ReplugResult:
    """How a migration by replug ended."""

    #: the guest runs on the destination
    arrived: bool = False
    #: why it did not arrive
    failed: str = ""
    failure: Optional[VfmigrateError] = None
    #: what could not be put right, by MAC: these interfaces are without a VF, and are to be tried again
    without_vf: dict[str, str] = field(default_factory=dict)


class Replug:
    """One migration by replug."""

    def __init__(self, hosts: GuestAndHosts, macs: Sequence[str]) -> None:
        """`macs` are the interfaces whose VFs stay behind."""
        self._hosts = hosts
        self._macs = tuple(macs)
        self._result = ReplugResult()

    def run(self) -> ReplugResult:
        """Migrate.

        Raises Refused when the destination has no VF to reserve, Unreachable when it cannot be asked, Cancelled when
        it was cancelled before: then nothing was changed.
        """
        self._claim()
        try:
            for mac in self._macs:
                self._hosts.unplug(mac)
            self._hosts.migrate()
        except VfmigrateError as error:
            self._result.failed, self._result.failure = str(error), error
            self._put_back()
            return self._result
        self._result.arrived = True
        for mac in self._macs:
            self._plug(mac)
        return self._result

    def _claim(self) -> None:
        claimed: list[str] = []
        for mac in self._macs:
            try:
                self._hosts.claim(mac)
            except VfmigrateError as error:
                for each in claimed:
                    self._give_back(each)
                if isinstance(error, (Cancelled, Unreachable)):
                    raise
                raise Refused(error.problem, error.remedy) from None
            claimed.append(mac)

    def _put_back(self) -> None:
        for mac in self._macs:
            self._plug_back(mac)
            self._give_back(mac)

    def _plug_back(self, mac: str) -> None:
        """A guest that was too slow to release its VF in time may have done so since."""
        try:
            if not self._hosts.has_vf(mac):
                self._hosts.plug_back(mac)
        except VfmigrateError as error:
            self._result.without_vf[mac] = str(error)

    def _plug(self, mac: str) -> None:
        try:
            self._hosts.plug(mac)
        except VfmigrateError as error:
            self._result.without_vf[mac] = str(error)

    def _give_back(self, mac: str) -> None:
        with contextlib.suppress(VfmigrateError):  # then the reservation expires
            self._hosts.give_back(mac)
