# SPDX-License-Identifier: GPL-2.0-or-later
"""Which guest of a host that is to be emptied goes where, and which may be on its way at the same time. Pure.

A plan never gives away more VFs than a destination has free, nor one that a guest's state does not fit. A card moves
the states of a few VFs at a time (`HostFacts.moving_at_once`): on this host the PF of each VF is known, and that is
what is counted. On a destination the daemon there chooses the VF, so all VFs of a pool count as if they were of one PF.
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
class VfNeed:
    """A VF that a guest has here and needs there."""

    #: None: of no pool of this host
    pool: Optional[str]
    mac: Optional[str] = None
    #: its state travels (strategy vfio); else it stays behind and another one takes its place
    travels: bool = True
    #: VLANs that its port is in, apart from the pool's own
    vlans: tuple[int, ...] = ()
    #: the physical function it is of here
    pf: Optional[str] = None
    #: what its state must fit
    mark: Mark = field(default_factory=Mark)


@dataclass(frozen=True)
class Leaver:
    """A guest that is to leave."""

    uuid: str
    name: str
    vfs: tuple[VfNeed, ...] = ()
    memory_mib: int = 0

    @property
    def pools(self) -> Counter[str]:
        """How many VFs of which pool it needs."""
        return Counter(vf.pool for vf in self.vfs if vf.pool is not None)

    @property
    def travelling(self) -> Counter[str]:
        """How many VFs of which pool take their state along."""
        return Counter(vf.pool for vf in self.vfs if vf.pool is not None and vf.travels)

    @property
    def from_pfs(self) -> Counter[str]:
        """The same by physical function of this host."""
        return Counter(vf.pf for vf in self.vfs if vf.pf is not None and vf.travels)


@dataclass(frozen=True)
class Place:
    """A destination as it is now."""

    name: str
    uri: str
    #: None: its daemon does not answer; guests without VFs can go there all the same
    facts: Optional[HostFacts] = None
    #: why there are no facts
    problem: str = ""
    memory_mib: int = 0


@dataclass(frozen=True)
class Plan:
    """Where each guest goes, by UUID, and why the others go nowhere."""

    moves: Mapping[str, str] = field(default_factory=dict)
    stuck: Mapping[str, str] = field(default_factory=dict)


class _Room:
    """What is left of a place while guests are planned onto it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.memory_mib = place.memory_mib
        self._taken: set[str] = set()

    def obstacle(self, guest: Leaver) -> Optional[str]:
        """Why a guest cannot go there, or None."""
        try:
            self._chosen(guest)
        except Refused as error:
            return error.problem
        return None

    def take(self, guest: Leaver) -> None:
        """Give the guest what it needs there. Raises Refused."""
        self._taken |= self._chosen(guest)
        self.memory_mib -= guest.memory_mib

    def expect(self, guest: Leaver) -> None:
        """Count a guest that is on its way there, as far as the place does not tell of its VFs already."""
        facts = self.place.facts
        vfs = [vf for pool in facts.pools for pf in pool.pfs for vf in pf.vfs] if facts is not None else []
        if not any(vf.guest == guest.uuid for vf in vfs):
            with contextlib.suppress(Refused):  # the daemon there has the last word, and has it now
                self.take(guest)

    def spare(self, guest: Leaver) -> int:
        """How many VFs the scarcest of the guest's pools has left."""
        facts = self.place.facts
        pools = [facts.pool(name) for name in guest.pools] if facts is not None else []
        return min((len(self._free(pool)) for pool in pools if pool is not None), default=0)

    def _free(self, pool: PoolFacts) -> list[tuple[PfFacts, VfFacts]]:
        return [
            (pf, vf)
            for pf in pool.pfs
            for vf in pf.vfs
            if vf.holder is None and vf.address not in self._taken
        ]

    def _chosen(self, guest: Leaver) -> set[str]:
        chosen: set[str] = set()
        if not guest.vfs:
            return chosen
        facts = self.place.facts
        if facts is None:
            raise Refused(f"vfmigrated there does not answer: {self.place.problem}")
        for name, number in guest.travelling.items():
            if number > facts.moving_at_once:
                raise Refused(
                    f"it has {number} VFs of pool '{name}', and a card moves {facts.moving_at_once} at a time"
                )
        for need in guest.vfs:
            chosen.add(self._vf_for(need, facts, chosen))
        return chosen

    def _vf_for(self, need: VfNeed, facts: HostFacts, chosen: Collection[str]) -> str:
        if need.pool is None:
            raise Refused(f"its VF with MAC {need.mac} is of no pool of this host")
        pool = facts.pool(need.pool)
        if pool is None:
            raise Refused(f"there is no pool '{need.pool}'")
        if pool.bridge_exists is False:
            raise Refused(f"there is no bridge '{pool.bridge}'")
        for vlan in need.vlans:
            if not pool.allows_vlan(vlan):
                raise Refused(f"VLAN {vlan} is not allowed in pool '{pool.name}'")
        unfit: Optional[Refused] = None
        for pf, vf in self._free(pool):
            if vf.address in chosen:
                continue
            try:
                if need.travels:
                    card = CardFacts(pf.psid, pf.firmware, vf.msix)
                    compatibility.check_compatible(need.mark, PciAddress.parse(vf.address), card)
            except Refused as error:
                unfit = error
                continue
            return vf.address
        raise unfit or Refused(f"pool '{pool.name}' has no VF left")


def plan(
    guests: Iterable[Leaver],
    places: Sequence[Place],
    *,
    refused: Mapping[str, Collection[str]] = MappingProxyType({}),
    under_way: Iterable[tuple[Leaver, str]] = (),
) -> Plan:
    """Decide where each guest goes.

    `refused` are the names of the places that turned a guest away already, by its UUID; `under_way` are guests that
    have set out, whose VFs the places may or may not tell of yet. Guests with many VFs come first, since they are the
    hardest to find a place for; each goes where most is left of what it needs.
    """
    rooms = [_Room(place) for place in places]
    for guest, name in under_way:
        for room in rooms:
            if room.place.name == name:
                room.expect(guest)
    moves: dict[str, str] = {}
    stuck: dict[str, str] = {}
    for guest in sorted(guests, key=lambda each: (-len(each.vfs), -each.memory_mib, each.name)):
        obstacles = {room.place.name: room.obstacle(guest) for room in rooms}
        for name in refused.get(guest.uuid, ()):
            obstacles[name] = "it refused the guest"
        fitting = [room for room in rooms if obstacles[room.place.name] is None]
        if fitting:
            room = max(fitting, key=lambda each: (each.spare(guest), each.memory_mib))
            room.take(guest)
            moves[guest.uuid] = room.place.name
        else:
            stuck[guest.uuid] = "; ".join(f"{name}: {why}" for name, why in obstacles.items())
    return Plan(moves, stuck)


class Lanes:
    """How many guests, and states of VFs, are on their way; nothing begins that would exceed a limit."""

    def __init__(self, jobs: int, here: Optional[HostFacts], places: Iterable[Place]) -> None:
        """`here` and `places` tell the limits, and what others have on the move already."""
        self._jobs = jobs
        self._moving: dict[str, tuple[Leaver, str]] = {}
        self._limits: dict[str, int] = {}
        self._others: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._here_limit = 0
        self.look(here, places)

    def look(self, here: Optional[HostFacts], places: Iterable[Place]) -> None:
        """Learn anew what others have on the move; only while nothing of ours is."""
        self._others.clear()
        if here is not None:
            self._here_limit = here.moving_at_once
            for pool in here.pools:
                for pf in pool.pfs:
                    self._others["", pf.address] += pf.moving
        for place in places:
            if place.facts is not None:
                self._limits[place.name] = place.facts.moving_at_once
                for pool in place.facts.pools:
                    self._others[place.name, pool.name] += sum(pf.moving for pf in pool.pfs)

    @property
    def under_way(self) -> list[tuple[Leaver, str]]:
        """The guests that are on their way, each with the place it goes to."""
        return list(self._moving.values())

    def loads(self) -> Counter[tuple[str, str]]:
        """VF states on their way: by PF of this host (first name empty), and by place and its pool."""
        found: Counter[tuple[str, str]] = Counter(self._others)
        for guest, place in self._moving.values():
            found.update(_load(guest, place))
        return found

    def may_begin(self, guest: Leaver, place: str) -> bool:
        """Whether a guest can set out now."""
        if len(self._moving) >= self._jobs:
            return False
        loads = self.loads()
        return all(
            loads[where] + number <= (self._limits.get(where[0], 0) if where[0] else self._here_limit)
            for where, number in _load(guest, place).items()
        )

    def begin(self, guest: Leaver, place: str) -> None:
        """A guest sets out."""
        self._moving[guest.uuid] = (guest, place)

    def end(self, guest: Leaver) -> None:
        """A guest has arrived, or stays."""
        self._moving.pop(guest.uuid, None)


def _load(guest: Leaver, place: str) -> Counter[tuple[str, str]]:
    load: Counter[tuple[str, str]] = Counter()
    for pf, number in guest.from_pfs.items():
        load["", pf] = number
    for pool, number in guest.travelling.items():
        load[place, pool] = number
    return load
