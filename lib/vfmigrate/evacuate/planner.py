# SPDX-License-Identifier: GPL-2.0-or-later
"""Plans an evacuation: the destination of each guest, and how many guests migrate at the same time. Pure.

A plan uses only VFs that are free on the destination and can take the guest's device state. A card migrates a limited
number of VFs with device state at a time (`HostFacts.moving_at_once`). On this host the PF of each VF is known, and its
VFs are counted. On a destination, the daemon chooses the VF, so all VFs of a pool count as if they were of one PF.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Optional

from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model.host_facts import HostFacts, PfFacts, PoolFacts, VfFacts
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import compatibility
from vfmigrate.rules.compatibility import CardFacts


@dataclass(frozen=True)
class VfRequirement:
    """A VF that a guest has on this host and needs on the destination."""

    #: None: it belongs to no pool of this host
    pool: Optional[str]
    mac: Optional[str] = None
    #: it migrates with its device state (strategy vfio); otherwise it is replaced on the destination
    with_state: bool = True
    #: VLANs of its port besides the pool's own
    vlans: tuple[int, ...] = ()
    #: its physical function on this host
    pf: Optional[str] = None
    #: the card that its device state requires
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True)
class EvacuatingGuest:
    """A guest that is to be migrated away."""

    uuid: str
    name: str
    vfs: tuple[VfRequirement, ...] = ()
    memory_mib: int = 0

    @property
    def pools(self) -> Counter[str]:
        """The number of VFs that it needs of each pool."""
        return Counter(vf.pool for vf in self.vfs if vf.pool is not None)

    @property
    def vfs_with_state(self) -> Counter[str]:
        """The number of VFs with device state, by pool."""
        return Counter(vf.pool for vf in self.vfs if vf.pool is not None and vf.with_state)

    @property
    def from_pfs(self) -> Counter[str]:
        """The number of VFs with device state, by physical function of this host."""
        return Counter(vf.pf for vf in self.vfs if vf.pf is not None and vf.with_state)


@dataclass(frozen=True)
class Destination:
    """A destination host, as observed."""

    name: str
    uri: str
    #: None: its daemon does not answer; guests without VFs can still migrate there
    facts: Optional[HostFacts] = None
    #: why there are no facts
    problem: str = ""
    memory_mib: int = 0


@dataclass(frozen=True)
class Plan:
    """The destination of each guest by UUID, and why the other guests have none."""

    moves: Mapping[str, str] = field(default_factory=dict)
    obstacles: Mapping[str, str] = field(default_factory=dict)


class _Capacity:
    """The remaining VFs and memory of a destination during planning."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.memory_mib = destination.memory_mib
        self._taken: set[str] = set()

    def obstacle(self, guest: EvacuatingGuest) -> Optional[str]:
        """Why a guest cannot migrate there, or None."""
        try:
            self._chosen(guest)
        except Refused as error:
            return error.problem
        return None

    def take(self, guest: EvacuatingGuest) -> None:
        """Assign the guest the VFs and memory that it needs. Raises Refused."""
        self._taken |= self._chosen(guest)
        self.memory_mib -= guest.memory_mib

    def take_migrating(self, guest: EvacuatingGuest) -> None:
        """Count a guest that is migrating there, unless the observed VFs include its own already."""
        facts = self.destination.facts
        vfs = [vf for pool in facts.pools for pf in pool.pfs for vf in pf.vfs] if facts is not None else []
        if not any(vf.guest == guest.uuid for vf in vfs):
            with contextlib.suppress(Refused):  # the daemon there decides
                self.take(guest)

    def spare(self, guest: EvacuatingGuest) -> int:
        """The free VFs in that of the guest's pools which has the fewest."""
        facts = self.destination.facts
        pools = [facts.pool(name) for name in guest.pools] if facts is not None else []
        return min((len(self._free(pool)) for pool in pools if pool is not None), default=0)

    def _free(self, pool: PoolFacts) -> list[tuple[PfFacts, VfFacts]]:
        return [
            (pf, vf)
            for pf in pool.pfs
            for vf in pf.vfs
            if vf.holder is None and vf.address not in self._taken
        ]

    def _chosen(self, guest: EvacuatingGuest) -> set[str]:
        chosen: set[str] = set()
        if not guest.vfs:
            return chosen
        facts = self.destination.facts
        if facts is None:
            raise Refused(f"vfmigrated does not answer: {self.destination.problem}")
        for name, number in guest.vfs_with_state.items():
            if number > facts.moving_at_once:
                raise Refused(
                    f"the guest has {number} VFs of pool '{name}', and a card migrates {facts.moving_at_once} at a time"
                )
        for need in guest.vfs:
            chosen.add(self._vf_for(need, facts, chosen))
        return chosen

    def _vf_for(self, need: VfRequirement, facts: HostFacts, chosen: Collection[str]) -> str:
        if need.pool is None:
            raise Refused(f"the VF with MAC {need.mac} belongs to no pool of the source")
        pool = facts.pool(need.pool)
        if pool is None:
            raise Refused(f"there is no pool '{need.pool}'")
        if pool.bridge_exists is False:
            raise Refused(f"there is no bridge '{pool.bridge}'")
        for vlan in need.vlans:
            if not pool.allows_vlan(vlan):
                raise Refused(f"pool '{pool.name}' does not allow VLAN {vlan}")
        unfit: Optional[Refused] = None
        for pf, vf in self._free(pool):
            if vf.address in chosen:
                continue
            try:
                if need.with_state:
                    card = CardFacts(pf.psid, pf.firmware, vf.msix)
                    compatibility.check_compatible(need.mark, PciAddress.parse(vf.address), card)
            except Refused as error:
                unfit = error
                continue
            return vf.address
        raise unfit or Refused(f"pool '{pool.name}' has no free VF left")


def plan(
    guests: Iterable[EvacuatingGuest],
    destinations: Sequence[Destination],
    *,
    refused: Mapping[str, Collection[str]] = MappingProxyType({}),
    migrating: Iterable[tuple[EvacuatingGuest, str]] = (),
) -> Plan:
    """Choose a destination for each guest.

    `refused` are the destinations that have refused a guest already, by its UUID. `migrating` are guests whose
    migration has begun; the destinations may or may not show their VFs yet. Guests with many VFs are planned first,
    as they are the hardest to place; each goes to the destination with the most free VFs of its pools.
    """
    capacities = [_Capacity(destination) for destination in destinations]
    for guest, name in migrating:
        for capacity in capacities:
            if capacity.destination.name == name:
                capacity.take_migrating(guest)
    moves: dict[str, str] = {}
    obstacles: dict[str, str] = {}
    for guest in sorted(guests, key=lambda each: (-len(each.vfs), -each.memory_mib, each.name)):
        why = {each.destination.name: each.obstacle(guest) for each in capacities}
        for name in refused.get(guest.uuid, ()):
            why[name] = "refused the guest"
        fitting = [each for each in capacities if why[each.destination.name] is None]
        if fitting:
            best = max(fitting, key=lambda each: (each.spare(guest), each.memory_mib))
            best.take(guest)
            moves[guest.uuid] = best.destination.name
        else:
            obstacles[guest.uuid] = "; ".join(f"{name}: {each}" for name, each in why.items())
    return Plan(moves, obstacles)


class Concurrency:
    """Counts the guests and the VFs with device state that are migrating, against the limits."""

    def __init__(self, jobs: int, here: Optional[HostFacts], destinations: Iterable[Destination]) -> None:
        """`here` and `destinations` have the limits, and the VFs that are migrating for others."""
        self._jobs = jobs
        self._moving: dict[str, tuple[EvacuatingGuest, str]] = {}
        self._limits: dict[str, int] = {}
        self._others: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._here_limit = 0
        self.update(here, destinations)

    def update(self, here: Optional[HostFacts], destinations: Iterable[Destination]) -> None:
        """Update the VFs that are migrating for others; only while none of our guests is migrating."""
        self._others.clear()
        if here is not None:
            self._here_limit = here.moving_at_once
            for pool in here.pools:
                for pf in pool.pfs:
                    self._others["", pf.address] += pf.moving
        for destination in destinations:
            if destination.facts is not None:
                self._limits[destination.name] = destination.facts.moving_at_once
                for pool in destination.facts.pools:
                    self._others[destination.name, pool.name] += sum(pf.moving for pf in pool.pfs)

    @property
    def migrating(self) -> list[tuple[EvacuatingGuest, str]]:
        """The guests that are migrating, each with its destination."""
        return list(self._moving.values())

    def loads(self) -> Counter[tuple[str, str]]:
        """Migrating VFs with device state: by PF of this host (first name empty), and by destination and pool."""
        found: Counter[tuple[str, str]] = Counter(self._others)
        for guest, destination in self._moving.values():
            found.update(_load(guest, destination))
        return found

    def can_start(self, guest: EvacuatingGuest, destination: str) -> bool:
        """Whether the limits allow the migration of this guest now."""
        if len(self._moving) >= self._jobs:
            return False
        loads = self.loads()
        return all(
            loads[where] + number <= (self._limits.get(where[0], 0) if where[0] else self._here_limit)
            for where, number in _load(guest, destination).items()
        )

    def start(self, guest: EvacuatingGuest, destination: str) -> None:
        """Count a guest whose migration starts."""
        self._moving[guest.uuid] = (guest, destination)

    def end(self, guest: EvacuatingGuest) -> None:
        """Stop counting a guest whose migration has ended."""
        self._moving.pop(guest.uuid, None)


def _load(guest: EvacuatingGuest, destination: str) -> Counter[tuple[str, str]]:
    load: Counter[tuple[str, str]] = Counter()
    for pf, number in guest.from_pfs.items():
        load["", pf] = number
    for pool, number in guest.vfs_with_state.items():
        load[destination, pool] = number
    return load
