# SPDX-License-Identifier: GPL-2.0-or-later
"""How many VFs of one physical function are migrating, and waiting until another one may.

A card can migrate a few VFs of a physical function at a time. They are counted on the destination, whose hook is called
before anything is sent. libvirt has no hook on the source before a migration ends, so migrations from one host to
several others are not counted on the source.

The claims show which VFs are migrating: those that are incoming and whose guest does not run here yet. A VF of a
hostdev network has no claim before libvirt has chosen it; until then its guest is expected. Waiting holds no lock.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Optional, TypeVar

from vfmigrate import deadline
from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.observe import Host
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules.compatibility import TooManyMigrating

# No event announces a claim that expires, so waiters look again; in seconds.
_LOOK_AGAIN = 0.5

_Taken = TypeVar("_Taken")


@dataclass(frozen=True)
class _Expected:
    """A guest that is migrating to here, for which libvirt will choose VFs of these physical functions."""

    name: str
    pfs: tuple[PciAddress, ...]
    expires: float


class MigrationSlots:
    """Counts the VFs that are migrating; thread-safe."""

    def __init__(self, config: Config, host: Host, store: ClaimStore) -> None:
        self._config = config
        self._host = host
        self._sysfs = host.sysfs
        self._store = store
        self._expected: dict[str, _Expected] = {}
        self._arrived: set[str] = set()
        self._changed = threading.Condition()
        self._closed = False

    # -- looked at and taken under the claims' lock

    def guests(self, pf: PciAddress) -> list[str]:
        """The guests whose VFs of a physical function are migrating: once for each VF."""
        return [name for of_pf, name in self._moving() if of_pf == pf]

    def _moving(self) -> list[tuple[Optional[PciAddress], str]]:
        """The physical function and the guest of each VF that is migrating."""
        now = self._store.clock()
        moving = [
            (self._sysfs.physfn(claim.vf), claim.domain_name)
            for claim in self._store.all()
            if claim.incoming and self._is_moving(claim, now)
        ]
        with self._changed:
            for one in self._expected.values():
                if one.expires > now:
                    moving += [(pf, one.name) for pf in one.pfs]
        return moving

    def _is_moving(self, claim: Claim, now: float) -> bool:
        if not claim.traits.uses_slot or claim.id in self._arrived:
            return False
        return not claim.has_expired(now)

    def full(self, pool: Pool) -> frozenset[PciAddress]:
        """The physical functions of a pool that must not have another VF migrating now."""
        moving = Counter(pf for pf, _ in self._moving())
        return frozenset(pf for pf in pool.pfs if moving[pf] and moving[pf] >= at_most(self._host, pool, pf))

    def expect(self, domain: Domain, pfs: Iterable[PciAddress]) -> None:
        """Expect a guest for which libvirt will choose VFs, presumably of these physical functions."""
        expected = tuple(pfs)
        with self._changed:
            self._expected.pop(domain.uuid, None)
            if expected:
                expires = self._store.clock() + self._config.claim_timeout
                self._expected[domain.uuid] = _Expected(domain.name, expected, expires)

    def is_expected(self, uuid: str) -> bool:
        """Whether a guest comes from elsewhere for which libvirt chooses VFs."""
        with self._changed:
            one = self._expected.get(uuid)
            return one is not None and one.expires > self._store.clock()

    # -- what happens to guests

    def settled(self, uuid: str) -> None:
        """A guest is no longer expected: its VFs have claims now, or it does not come."""
        with self._changed:
            self._expected.pop(uuid, None)
            self._changed.notify_all()

    def arrived(self, uuid: str) -> None:
        """A guest runs here: its VFs are not migrating any more."""
        here = {claim.id for claim in self._store.of_domain(uuid)}
        claimed = {claim.id for claim in self._store.all()}
        with self._changed:
            self._arrived = (self._arrived & claimed) | here
            self._changed.notify_all()

    # -- limits and turns

    def in_turn(self, take: Callable[[], _Taken], on_wait: Callable[[TooManyMigrating], None]) -> _Taken:
        """Take VFs, when they may move: `take` raises TooManyMigrating while too many do, and is asked again.

        Calls `on_wait` once, before it waits. Raises what `take` raises; TooManyMigrating after `migrating_wait`.
        """
        # a part of the time for the event is for what comes after the wait
        until = time.monotonic() + min(self._config.migrating_wait, 0.9 * deadline.left())
        waits = False
        while True:
            try:
                return take()
            except TooManyMigrating as crowded:
                left = until - time.monotonic()
                if left <= 0 or self._closed:
                    raise
                if not waits:
                    on_wait(crowded)
                    waits = True
            with self._changed:
                if not self._closed:
                    self._changed.wait(min(left, _LOOK_AGAIN))

    def close(self) -> None:
        """End all waits: the daemon is stopping."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def check_arrival(self, domain: Domain, arrivals: Iterable[tuple[VfInterface, Pool]]) -> None:
        """Raises Refused for a guest with more VFs than can move at once, here or where it comes from."""
        of_pool: Counter[str] = Counter()
        of_source: Counter[tuple[str, PciAddress]] = Counter()
        for interface, pool in arrivals:
            mark = interface.mark
            if interface.teaming is not None:
                continue
            of_pool[pool.name] += 1
            if mark is not None and mark.pf is not None:
                of_source[pool.name, mark.pf] += 1
        for (name, pf), number in of_source.items():
            pool = self._config.pools[name]
            # The source's card is not known here, but it must be of the same make.
            most = min(at_most(self._host, pool, each) for each in pool.pfs)
            check_number(domain.name, pf, number, pool, most, "on the source")
        for name, number in of_pool.items():
            pool = self._config.pools[name]
            room = sum(at_most(self._host, pool, pf) for pf in pool.pfs if self._sysfs.exists(pf))
            if number > room:
                raise Refused(
                    f"guest '{domain.name}' has {number} VFs of pool '{name}', and the cards of this host can migrate "
                    f"{room} at a time",
                    f"unplug some of them, or see max_migrating of [pool {name}]",
                )


def at_most(host: Host, pool: Pool, pf: PciAddress) -> int:
    """How many VFs of a physical function may migrate at once: by the pool, else by the card's vendor."""
    return pool.max_migrating if pool.max_migrating is not None else host.vendor(pf).max_migrating


def check_number(
    guest: str, pf: Optional[PciAddress], number: int, pool: Pool, most: int, where: str = "on this host"
) -> None:
    """Raises Refused for a guest that has more VFs of one physical function than can move at once."""
    if number > most:
        raise Refused(
            f"guest '{guest}' has {number} VFs of PF {pf} {where}, and the card can migrate {most} at a time",
            f"unplug some of them, or see max_migrating of [pool {pool.name}]",
        )
