# SPDX-License-Identifier: GPL-2.0-or-later
"""The two hosts of a migration by replug: libvirt on both, and vfmigrated on both through libvirt.

Both daemons learn of each VF that is unplugged and of its PCI address in the guest. So each of them can plug in what is
missing when this command dies in the middle, and the destination's does so as soon as the guest runs there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vfmigrate.domain.migrating_vf import MigratingVf
from vfmigrate.errors import Cancelled, HostError, Refused, VfmigrateError
from vfmigrate.model import strategy
from vfmigrate.model.progress import Display
from vfmigrate.polling import poll

if TYPE_CHECKING:
    from vfmigrate.virt.hot_plug import HotPlug  # imports libvirt-python

#: seconds that the destination's daemon has for plugging a VF in; it keeps trying after that
PLUG_SECONDS = 30.0
_LOOK_SECONDS = 0.1


class DaemonClient(Protocol):
    """vfmigrated on one host (rpc/remote_client.py)."""

    def ask(self, name: str, arguments: Mapping[str, Any], *, timeout: float = 20.0) -> Mapping[str, Any]:
        """Send a request and return its result."""


@dataclass(frozen=True)
class HostClients:
    """One of the two hosts: its vfmigrated, and the devices of the guest in its libvirt."""

    daemon: DaemonClient
    devices: HotPlug


class MigrationRun(Protocol):
    """The migration itself, of the guest without its VFs."""

    uuid: str
    name: str

    def migrate(self) -> None:
        """Migrate, and return when the guest runs on the destination. Raises VfmigrateError when it does not."""


class ReplugHosts:
    """What `Replug` acts on: one guest, libvirt and vfmigrated on its source and its destination."""

    def __init__(
        self,
        migration: MigrationRun,
        migrating_vfs: Sequence[MigratingVf],
        source: HostClients,
        destination: HostClients,
        display: Display,
        cancelled: threading.Event,
    ) -> None:
        self._migration = migration
        self._migrating_vfs = {one.mac or "": one for one in migrating_vfs}
        self._source = source
        self._destination = destination
        self._display = display
        self._cancelled = cancelled
        self._texts: dict[str, str] = {}
        #: when each VF was taken out and put in again, in seconds of this process's clock
        self.out: dict[str, float] = {}
        self.back: dict[str, float] = {}

    def _request(self, mac: str) -> dict[str, Any]:
        one = self._migrating_vfs[mac]
        request: dict[str, Any] = {
            "domain": self._migration.uuid,
            "name": self._migration.name,
            "mac": mac,
            "strategy": one.strategy.name,
            "pool": one.pool,
            "slot": str(one.slot),
        }
        return request if one.vlan is None else {**request, "vlan": one.vlan}

    def _claim(self, daemon: DaemonClient, request: dict[str, Any]) -> Mapping[str, Any]:
        """Have a daemon keep a VF; of strategy replug where it cannot be made ready for its own."""
        try:
            return daemon.ask("claim", request)
        except (Refused, HostError):
            if not self._migrating_vfs[request["mac"]].falls_back:
                raise
        return daemon.ask("claim", {**request, "strategy": strategy.REPLUGGED.name})

    def claim(self, mac: str) -> None:
        """Reserve a VF on the destination, and have the source's VF kept for the guest."""
        if self._cancelled.is_set():
            raise Cancelled("cancelled before anything was changed")
        request = {**self._request(mac), "incoming": True}
        origin = self._migrating_vfs[mac].address
        if origin is not None:
            request["origin"] = str(origin)
        vf = self._claim(self._destination.daemon, request)["vf"]
        self._display.event("claimed", f"{mac}: VF {vf} is reserved on the destination", mac=mac, vf=vf)
        try:
            self._claim(self._source.daemon, self._request(mac))
        except VfmigrateError:
            self.give_back(mac)
            raise

    def give_back(self, mac: str) -> None:
        """Cancel that reservation."""
        request = {"domain": self._migration.uuid, "mac": mac, "pool": self._migrating_vfs[mac].pool}
        self._destination.daemon.ask("give_back", request)

    def unplug(self, mac: str) -> None:
        """Take the VF out of the guest on the source."""
        text = self._source.devices.text(mac)
        if text is None:
            raise HostError(f"guest '{self._migration.name}' has no VF with MAC {mac} any more")
        self._texts[mac] = text
        self._source.devices.detach(mac, text, self._cancelled)
        self.out[mac] = time.monotonic()
        self._display.event("unplugged", f"{mac}: the guest released its VF", mac=mac)

    def has_vf(self, mac: str) -> bool:
        """Whether the guest on the source has its VF."""
        return self._source.devices.text(mac) is not None

    def plug_back(self, mac: str) -> None:
        """Plug the VF into the guest on the source again, as it was."""
        text = self._texts.get(mac)
        if text is None:
            raise HostError(
                "its XML is not known", "see virsh dumpxml --inactive, and virsh attach-device --live"
            )
        try:
            self._source.devices.attach(text)
        except HostError:
            if not self.has_vf(mac):  # the daemon may have been faster
                raise
        self.back[mac] = time.monotonic()
        self._display.event("plugged-back", f"{mac}: the guest has its VF on the source again", mac=mac)

    def migrate(self) -> None:
        """Migrate the guest, which has no VF now."""
        self._migration.migrate()

    def plug(self, mac: str) -> None:
        """Wait until the destination's daemon, which knows best when, has plugged the reserved VF in."""
        if poll(lambda: self._destination.devices.text(mac), PLUG_SECONDS, _LOOK_SECONDS) is None:
            raise HostError(
                f"it was not plugged in on the destination within {PLUG_SECONDS:.0f} s",
                "vfmigrated on the destination keeps trying; run there: vfmigrate status",
            )
        self.back[mac] = time.monotonic()
        self._display.event("plugged", f"{mac}: the guest has a VF on the destination", mac=mac)
