# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest and hosts as `replug` acts on them: libvirt at both ends, and vfmigrated at both ends through it.

Both daemons are told of each VF that goes, with where the guest sees it: so each of them can plug in what should be
there when this command dies in the middle, and the destination's does so the moment the guest runs there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vfmigrate.domain.migrating_vf import Crossing
from vfmigrate.errors import Cancelled, HostError, VfmigrateError
from vfmigrate.model.progress import Display

if TYPE_CHECKING:
    from vfmigrate.virt.devices import Devices  # imports libvirt-python

#: seconds that the destination's daemon has for plugging a VF in; it goes on trying after that
PLUG_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class Desk(Protocol):
    """vfmigrated on one host, to be asked (see remote)."""

    def ask(self, name: str, arguments: Mapping[str, Any], *, timeout: float = 20.0) -> Mapping[str, Any]:
        """Send a request, and give its result."""


class Journey(Protocol):
    """The migration itself, of the guest as it is by then."""

    uuid: str
    name: str

    def migrate(self) -> None:
        """Migrate, and return when the guest runs on the destination. Raises VfmigrateError when it does not."""


class Ends:
    """One guest on its way: the ground that `Replug` walks on."""

    def __init__(
        self,
        journey: Journey,
        crossings: Sequence[Crossing],
        source: Devices,
        destination: Devices,
        near: Desk,
        far: Desk,
        display: Display,
        cancelled: threading.Event,
    ) -> None:
        self._journey = journey
        self._crossings = {one.mac or "": one for one in crossings}
        self._source = source
        self._destination = destination
        self._near = near
        self._far = far
        self._display = display
        self._cancelled = cancelled
        self._texts: dict[str, str] = {}
        #: when each VF was taken out and put in again, in seconds of this process's clock
        self.out: dict[str, float] = {}
        self.back: dict[str, float] = {}

    def _wish(self, mac: str) -> dict[str, Any]:
        one = self._crossings[mac]
        wish: dict[str, Any] = {
            "domain": self._journey.uuid,
            "name": self._journey.name,
            "mac": mac,
            "strategy": one.strategy.name,
            "pool": one.pool,
            "slot": str(one.slot),
        }
        return wish if one.vlan is None else {**wish, "vlan": one.vlan}

    def claim(self, mac: str) -> None:
        """Promise a VF of the destination, and have the source's kept for the guest."""
        if self._cancelled.is_set():
            raise Cancelled("cancelled before anything was touched")
        wish = {**self._wish(mac), "incoming": True}
        origin = self._crossings[mac].address
        if origin is not None:
            wish["origin"] = str(origin)
        vf = self._far.ask("claim", wish)["vf"]
        self._display.event("claimed", f"{mac}: VF {vf} is promised on the destination", mac=mac, vf=vf)
        try:
            self._near.ask("claim", self._wish(mac))
        except VfmigrateError:
            self.give_back(mac)
            raise

    def give_back(self, mac: str) -> None:
        """Take that promise back."""
        self._far.ask("give_back", {"domain": self._journey.uuid, "mac": mac})

    def unplug(self, mac: str) -> None:
        """Take the VF out of the guest on the source."""
        text = self._source.text(mac)
        if text is None:
            raise HostError(f"guest '{self._journey.name}' has no VF with MAC {mac} any more")
        self._texts[mac] = text
        self._source.detach(mac, text, self._cancelled)
        self.out[mac] = time.monotonic()
        self._display.event("unplugged", f"{mac}: the guest has let go of its VF", mac=mac)

    def has_vf(self, mac: str) -> bool:
        """Whether the guest on the source has its VF."""
        return self._source.text(mac) is not None

    def plug_back(self, mac: str) -> None:
        """Plug the VF into the guest on the source again, as it was."""
        text = self._texts.get(mac)
        if text is None:
            raise HostError(
                "nobody knows what it had", "see virsh dumpxml --inactive, and virsh attach-device --live"
            )
        try:
            self._source.attach(text)
        except HostError:
            if not self.has_vf(mac):  # the daemon may have been faster
                raise
        self.back[mac] = time.monotonic()
        self._display.event("plugged-back", f"{mac}: the guest has its VF on the source again", mac=mac)

    def migrate(self) -> None:
        """Migrate the guest, which has no VF now."""
        self._journey.migrate()

    def plug(self, mac: str) -> None:
        """Wait until the destination's daemon, which knows best when, has plugged the promised VF in."""
        end = time.monotonic() + PLUG_SECONDS
        while self._destination.text(mac) is None:
            if time.monotonic() > end:
                raise HostError(
                    f"it was not plugged in on the destination within {PLUG_SECONDS:.0f} s",
                    "vfmigrated there goes on trying: vfmigrate status there",
                )
            time.sleep(_LOOK_SECONDS)
        self.back[mac] = time.monotonic()
        self._display.event("plugged", f"{mac}: the guest has a VF on the destination", mac=mac)
