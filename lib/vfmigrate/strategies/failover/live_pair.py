# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a failover pair in a guest that runs: the order of the steps, and the way back when one of them fails.

A guest and QEMU agree on failover when the guest's virtio driver starts (VIRTIO_NET_F_STANDBY), and QEMU ties a VF to
its standby when the VF is plugged in. So the standby must be plugged in while the guest runs, and a VF that the guest
has already must be unplugged and plugged in again as the other half. QEMU keeps
that half from a guest that has not agreed: such a guest gets its VF back as it was.

Pure: what is done to the guest is behind `Guest`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from vfmigrate.errors import HostError, VfmigrateError


@dataclass(frozen=True)
class Halves:
    """The devices as libvirt takes them."""

    mac: str
    #: the VF as the guest has it now
    vf: str
    #: the same VF as half of a pair
    primary: str
    standby: str


class Guest(Protocol):
    """A running guest, as far as it is acted on; everything may raise VfmigrateError, and waits bounded."""

    name: str
    #: seconds that it is given for each step
    patience: float

    def plug(self, device: str) -> None:
        """Plug a device in."""

    def unplug(self, device: str) -> bool:
        """Ask the guest to release a device; False when it has not done so in time."""

    def settle(self) -> None:
        """Give the guest time to start its driver for a device that has just come."""

    def takes_vf(self, mac: str) -> bool:
        """Wait for the guest's driver to have its VF; False when it has not in time."""

    def vf(self, mac: str) -> str:
        """What the guest has now: 'lone' for a VF by itself, 'half' for one of a pair, '' for none."""

    def restore_marks(self) -> None:
        """Put back what the metadata said of its VFs at first."""


def make(guest: Guest, halves: Halves) -> None:
    """Make the pair. Raises HostError when that fails: then the guest is as it was, or the error says what is not."""
    guest.plug(halves.standby)
    try:
        guest.settle()
        if not guest.unplug(halves.vf):
            raise HostError(f"guest '{guest.name}' did not release its VF within {guest.patience:g} s")
        guest.plug(halves.primary)
        if not guest.takes_vf(halves.mac):
            raise HostError(
                f"guest '{guest.name}' did not take its VF as half of a pair within {guest.patience:g} s; "
                "its virtio driver may not support failover"
            )
    except VfmigrateError as error:
        left = _put_back(guest, halves)
        raise HostError(
            f"{error.problem}; {'; '.join(left) or 'it has its VF as before'}",
            "to have the pair at the guest's next boot, run the command without --live",
        ) from None


def _put_back(guest: Guest, halves: Halves) -> list[str]:
    """Give the guest its VF as it was and take the standby away; returns in words what is not as it was.

    The standby is taken from a guest that has its VF, and from no other: one of the two has to carry it.
    """
    try:
        has = guest.vf(halves.mac)
        if has == "half":
            if not guest.unplug(halves.primary):
                return ["it keeps the pair until it releases the VF or is shut down"]
            has = ""
        if not has:
            guest.plug(halves.vf)
    except VfmigrateError as error:
        return [f"it is on its standby, and its VF could not be plugged in again: {error.problem}"]
    left = []
    try:
        guest.restore_marks()
        if not guest.unplug(halves.standby):
            left.append(
                "it has its VF as before, and keeps the standby until it releases the standby or is shut down"
            )
    except VfmigrateError as error:
        left.append(f"it has its VF as before, and still has the standby: {error.problem}")
    return left
