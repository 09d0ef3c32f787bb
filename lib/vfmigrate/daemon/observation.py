# SPDX-License-Identifier: GPL-2.0-or-later
"""What `status` and `facts` both look at: the switch, and each pool with its bridge, its PFs and their VFs.

Both answers are rendered from these values. Reads only, with a bounded number of questions to each door however many
VFs there are; what a door cannot answer is reported as such, and the rest is answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Callable, Optional, TypeVar

from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.pool import Pool
from vfmigrate.converge.observe import Surroundings, VfState
from vfmigrate.converge.services import HostServices
from vfmigrate.converge.vf_use import VfUse
from vfmigrate.errors import VfmigrateError
from vfmigrate.host.devlink_messages import CardVersions
from vfmigrate.model.host_facts import SwitchFacts
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.offload import HardwareOffload
from vfmigrate.provision import pf
from vfmigrate.provision.device_query import DeviceAnswer
from vfmigrate.provision.pf import PfState
from vfmigrate.reservations.migration_slots import at_most
from vfmigrate.rules.findings import Finding

#: all that is wrong with a pool, given how its PFs are
Check = Callable[[Pool, Mapping[PciAddress, PfState]], Sequence[Finding]]
#: what is known of the VFs of a PF from one that was asked
Known = Callable[[PfState, CardVersions], DeviceAnswer]


@dataclass(frozen=True)
class ObservedVf:
    """One VF with its claim."""

    state: VfState
    claim: Optional[Claim]
    msix: Optional[int]
    #: who has it; None for a free one
    use: Optional[VfUse]

    @property
    def holder(self) -> Optional[str]:
        """Who has it, in words; None for a free one."""
        return self.use.text if self.use is not None else None


@dataclass(frozen=True)
class ObservedPf:
    """One PF of a pool."""

    address: PciAddress
    #: how many of its VFs migrate at once
    at_most: int
    #: there is such a PCI device
    exists: bool = True
    #: why there is neither state nor card
    problem: Optional[str] = None
    state: Optional[PfState] = None
    card: Optional[CardVersions] = None
    answer: DeviceAnswer = field(default_factory=DeviceAnswer)
    vfs: tuple[ObservedVf, ...] = ()


@dataclass(frozen=True)
class ObservedPool:
    """One pool."""

    pool: Pool
    #: None while Open vSwitch cannot be asked, for the reason given
    bridge_exists: Optional[bool]
    bridge_problem: Optional[str]
    pfs: tuple[ObservedPf, ...]
    findings: tuple[Finding, ...]
    #: why the findings are not known
    findings_problem: Optional[str] = None

    @property
    def states(self) -> dict[PciAddress, PfState]:
        """The state of each PF whose state is known."""
        return {each.address: each.state for each in self.pfs if each.state is not None}


_Seen = TypeVar("_Seen")

#: says what is wrong, or None
Problem = Callable[[], Optional[VfmigrateError]]


def seen(look: Callable[[], _Seen]) -> tuple[Optional[_Seen], Optional[VfmigrateError]]:
    """What a look shows, or why it shows nothing."""
    try:
        return look(), None
    except VfmigrateError as error:
        return None, error


def _seen(look: Callable[[], _Seen]) -> tuple[Optional[_Seen], Optional[str]]:
    """As `seen`, with the reason in words."""
    found, error = seen(look)
    return found, str(error) if error is not None else None


class Observer:
    """Looks at the switch and the pools of this host."""

    def __init__(
        self,
        services: HostServices,
        offload: HardwareOffload,
        check: Check,
        known: Known,
        problems: Sequence[Problem] = (),
    ) -> None:
        """Each of `problems` says what is wrong with the host as a whole, if anything is."""
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._offload = offload
        self._check = check
        self._known = known
        self._problems = problems

    def problems(self) -> tuple[VfmigrateError, ...]:
        """What is wrong with the host as a whole."""
        found = (ask() for ask in self._problems)
        return tuple(problem for problem in found if problem is not None)

    @property
    def switch_unit(self) -> str:
        """The unit to restart while hardware offload has no effect yet."""
        return self._offload.unit

    def switch(self) -> SwitchFacts:
        """Open vSwitch as it is now."""
        running, unknown = _seen(self._offload.running)
        try:
            enabled = self._offload.enabled(self._host.ovs)
        except VfmigrateError as error:
            return SwitchFacts(problem=str(error), running=running, unknown=unknown)
        offload, of_offload = _seen(lambda: self._offload.state(enabled))
        return SwitchFacts(running=running, offload=offload, unknown=unknown or of_offload)

    def pools(self, name: Optional[str] = None) -> list[ObservedPool]:
        """Every pool as it is now, or the one of this name."""
        wanted = [pool for pool in self._config.pools.values() if name in (None, pool.name)]
        around = self._host.surroundings(pf for pool in wanted for pf in pool.pfs)
        return [self._pool(pool, around) for pool in wanted]

    def _pool(self, pool: Pool, around: Surroundings) -> ObservedPool:
        exists, bridge_problem = _seen(lambda: self._host.ovs.bridge_exists(pool.bridge))
        pfs = tuple(self._pf(pool, address, around) for address in pool.pfs)
        found = ObservedPool(pool, exists, bridge_problem, pfs, ())
        try:
            return replace(found, findings=tuple(self._check(pool, found.states)))
        except VfmigrateError as error:
            return replace(found, findings_problem=str(error))

    def _pf(self, pool: Pool, address: PciAddress, around: Surroundings) -> ObservedPf:
        most = at_most(self._host, pool, address)
        if not self._host.sysfs.exists(address):
            return ObservedPf(address, most, exists=False)
        try:
            state = pf.observe(self._host, self._store, pool, address, around)
        except VfmigrateError as error:
            return ObservedPf(address, most, problem=str(error))
        try:
            card = self._host.card(address)
        except VfmigrateError as error:
            return ObservedPf(address, most, problem=str(error), state=state)
        vfs = tuple(
            ObservedVf(vf, self._store.valid(vf.vf), state.msix[vf.vf], state.uses.get(vf.vf))
            for vf in state.vfs
        )
        try:
            answer = self._known(state, card)
        except VfmigrateError as error:
            answer = DeviceAnswer(unknown=str(error))
        return ObservedPf(address, most, state=state, card=card, answer=answer, vfs=vfs)
