# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has a VF: the one place that judges whether it is free.

A guest has it by its claim, a process by VFIO, or this host itself by a driver. Who else than a guest has it takes long
to find out (a walk through all processes, netlink). So that is asked first, of many VFs at once and without the claims'
lock, and the claims are compared with it under the lock (`Sight`).

A VF with a driver other than VFIO's is this host's own
- when its network device has an address, or is a port of a bond, a bridge or Open vSwitch;
- when its network device is up, unless the host's driver has the pool's free VFs anyway (`free_vfs = host`): there each
  of them has a network device, which NetworkManager may have brought up;
- when it has no network device here: a container has it in its own network namespace, which sysfs does not show.
What cannot be read is not known, and a VF of which it is not known counts as in use.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Optional

from vfmigrate import locks
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.pool import Pool
from vfmigrate.converge.observe import Host
from vfmigrate.errors import VfmigrateError
from vfmigrate.host.links import Link
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules.compatibility import CardFacts


class User(enum.Enum):
    """What kind of user has a VF."""

    GUEST = "guest"
    PROCESS = "process"
    HOST = "host"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class VfUse:
    """Who has a VF; `text` completes "the VF is"."""

    user: User
    text: str


def of_claim(claim: Claim) -> VfUse:
    """The use of a VF by the guest of its claim."""
    return VfUse(User.GUEST, claim_store.holder(claim))


def unclaimed_use(
    host: Host, vfs: Mapping[PciAddress, Pool], held: Optional[Mapping[PciAddress, int]] = None
) -> dict[PciAddress, VfUse]:
    """Who has these VFs, claims aside; those that nobody has are left out.

    `held` are the processes that have VFs, where that was looked up already. Raises nothing.
    """
    locks.may_take_long("finds out who has a VF")
    looks = _Looks(host, vfs, held)
    uses = {vf: looks.use_of(vf) for vf in vfs}
    return {vf: use for vf, use in uses.items() if use is not None}


class _Looks:
    """Asks for all VFs at once what can be asked so, and only where a VF needs it."""

    def __init__(
        self,
        host: Host,
        vfs: Mapping[PciAddress, Pool],
        held: Optional[Mapping[PciAddress, int]],
    ) -> None:
        self._host = host
        self._vfs = vfs
        self._held = held
        self._failure: Optional[VfmigrateError] = None
        self._addresses: Optional[Mapping[int, list[str]]] = None

    def use_of(self, vf: PciAddress) -> Optional[VfUse]:
        try:
            driver = self._host.sysfs.driver(vf)
            if driver is None:
                return None
            return self._by_process(vf) if self._host.sysfs.is_vfio(driver) else self._by_host(vf, driver)
        except VfmigrateError as error:
            return VfUse(User.UNKNOWN, f"perhaps in use: {error.problem}")

    def _by_process(self, vf: PciAddress) -> Optional[VfUse]:
        pid = self._processes().get(vf) if vf in self._opened else None
        return VfUse(User.PROCESS, f"held by {self._host.sysfs.user_of(pid)}") if pid is not None else None

    @functools.cached_property
    def _opened(self) -> dict[PciAddress, None]:
        """The VFs that processes may have, as far as can be seen without looking at those; nearly always none."""
        return dict.fromkeys(vf for vf in self._vfs if self._host.sysfs.may_be_open(vf))

    def _processes(self) -> Mapping[PciAddress, int]:
        """The processes that have these VFs; walks through all processes once at most, also when that fails."""
        if self._failure is not None:
            raise self._failure
        if self._held is None:
            try:
                self._held = self._host.sysfs.held(self._opened)
            except VfmigrateError as error:
                self._failure = error
                raise
        return self._held

    def _by_host(self, vf: PciAddress, driver: str) -> Optional[VfUse]:
        names = self._host.sysfs.netdevs(vf)
        if not names:
            return VfUse(
                User.HOST,
                f"in use through driver {driver}, and its network device is not in this network namespace "
                "(a container may have it)",
            )
        for name in names:
            link = self._host.links.find(name)
            if link is None:
                return VfUse(
                    User.UNKNOWN, f"perhaps in use: its network device {name} is being renamed or moved"
                )
            configured = self._configuration(link)
            if configured is not None:
                return VfUse(User.HOST, f"in use by this host as {name} ({configured})")
            if link.up and self._vfs[vf].free_vfs != "host":
                return VfUse(User.HOST, f"in use by this host as {name}")
        return None

    def _configuration(self, link: Link) -> Optional[str]:
        if link.master is not None:
            return f"a port of {self._host.links.link(link.master).name}"
        if self._addresses is None:
            self._addresses = self._host.links.addresses()
        return ", ".join(self._addresses.get(link.index, ())) or None


@dataclass
class Sight:
    """What was seen of some VFs a moment ago, claims aside; a decision on them is made under the claims' lock."""

    #: the VFs and their pools
    vfs: Mapping[PciAddress, Pool]
    #: those that no other guest had by a claim; who has a VF was found out for these
    looked_at: Container[PciAddress]
    uses: Mapping[PciAddress, VfUse]
    facts: Mapping[PciAddress, CardFacts]
    #: a VF that was not looked at has no claim any more: a caller that finds no other can look again
    outdated: bool = False

    def use(self, vf: PciAddress, claim: Optional[Claim]) -> Optional[VfUse]:
        """Who has a VF; None when it is free. `claim` is the claim on it now, if there is a valid one.

        A VF that another guest had is not free before it was looked at: that guest may just be ending.
        """
        if claim is not None:
            return of_claim(claim)
        if vf not in self.looked_at:
            self.outdated = True
            return VfUse(User.UNKNOWN, "perhaps in use: it was released only a moment ago")
        return self.uses.get(vf)

    def is_idle(self, vf: PciAddress) -> bool:
        """Whether a VF was looked at and nobody had it, claims aside."""
        return vf in self.looked_at and vf not in self.uses
