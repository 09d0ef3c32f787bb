# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VF a guest gets: look at the host, then decide under the claims' lock; `compatibility` chooses.

What takes long (the host, its processes and its card) is looked at before the lock is taken, once for all VFs: other
guests must not wait for it. What was seen is compared with the claims under the lock, which is held from before
choosing until after taking.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Callable, Optional, TypeVar

from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.config.pool import Pool
from vfmigrate.converge import vf_use
from vfmigrate.converge.observe import Host
from vfmigrate.converge.vf_use import Sight
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.cleanup import Cleanup
from vfmigrate.reservations.migration_slots import MigrationSlots, at_most
from vfmigrate.rules import compatibility, spread
from vfmigrate.rules.compatibility import Candidate, CardFacts, TooManyMigrating
from vfmigrate.rules.spread import Wish
from vfmigrate.text import quoted

# A VF that is given back between the look and the decision is not given away; where there is no other, look again.
_LOOKS = 3

_NO_WISH = Wish()

_Taken = TypeVar("_Taken")


def _must_wait(wish: Wish, of_pf: Mapping[PciAddress, object], fitting: Mapping[PciAddress, object]) -> bool:
    """Whether a PF would keep the guest's VFs apart that only cannot have another VF migrating now."""
    return min(map(wish.conflicts, fitting)) > min(map(wish.conflicts, of_pf))


class Selection:
    """Finds free VFs of a pool."""

    def __init__(self, host: Host, store: ClaimStore, slots: MigrationSlots, cleanup: Cleanup) -> None:
        self._host = host
        self._store = store
        self._slots = slots
        self._cleanup = cleanup

    def decide(
        self,
        vfs: Mapping[PciAddress, Pool],
        facts: Mapping[PciAddress, CardFacts],
        domain: str,
        take: Callable[[Sight], _Taken],
    ) -> _Taken:
        """Look at VFs, then have `take` decide on them and write claims, under the claims' lock.

        `facts` are needed where VFs are compared with a mark; `domain` is the UUID of the guest that wants VFs. A VF
        whose claim has expired is made free first, unless somebody has it all the same. Raises what `take` raises.
        """
        for left in reversed(range(_LOOKS)):
            sight = self._look(vfs, facts, domain)
            self._cleanup.release_expired({vf for vf in vfs if sight.is_idle(vf)})
            try:
                with self._store.lock:
                    return take(sight)
            except Refused:
                if not left or not sight.outdated:
                    raise
        raise AssertionError  # the last look ends the loop

    def _look(
        self, vfs: Mapping[PciAddress, Pool], facts: Mapping[PciAddress, CardFacts], domain: str
    ) -> Sight:
        open_to_it: dict[PciAddress, Pool] = {}
        for vf, pool in vfs.items():
            claim = self._store.blocking(vf)
            if claim is None or claim.domain == domain:
                open_to_it[vf] = pool
        return Sight(vfs, open_to_it, vf_use.unclaimed_use(self._host, open_to_it), facts)

    def vfs(self, pools: Iterable[Pool]) -> dict[PciAddress, Pool]:
        """The VFs of some pools, in the order in which the pools' networks list them."""
        return {
            vf: pool
            for pool in pools
            for vf in spread.interleaved([self._host.sysfs.vfs(pf) for pf in pool.pfs])
        }

    def check_bridges(self, pools: Iterable[Pool]) -> None:
        """Raises Refused when a bridge that a VF of these pools is plugged into is not on this host."""
        for bridge in sorted({pool.bridge for pool in pools}):
            if not self._host.ovs.bridge_exists(bridge):
                raise Refused(
                    f"there is no bridge '{bridge}' on this host", f"run: ovs-vsctl add-br {quoted(bridge)}"
                )

    def facts(self, vfs: Iterable[PciAddress]) -> dict[PciAddress, CardFacts]:
        """PSID, firmware and MSI-X of these VFs (asked of the card once for each PF)."""
        of_pf: dict[PciAddress, list[PciAddress]] = {}
        for vf in vfs:
            pf = self._host.sysfs.physfn(vf)
            if pf is not None:
                of_pf.setdefault(pf, []).append(vf)
        msix = self._host.sysfs.msix_counts(vf for own in of_pf.values() for vf in own)
        facts = {}
        for pf, own in of_pf.items():
            card = self._host.card(pf)
            for vf in own:
                facts[vf] = CardFacts(card.psid, card.firmware, msix[vf])
        return facts

    def choose(  # noqa: PLR0913 - all that the choice depends on
        self,
        pool: Pool,
        sight: Sight,
        mark: Optional[Mark] = None,
        preferred: Optional[PciAddress] = None,
        *,
        moves: bool = False,
        besides: Optional[Container[PciAddress]] = None,
        giving_up: Container[Claim] = (),
        wish: Wish = _NO_WISH,
    ) -> PciAddress:
        """A free VF of a pool, `preferred` where that can be had; with a mark only one that can take its state.

        `sight` is what was seen of the pool's VFs. With `moves` it is of a physical function that may have another VF
        migrating now. With `besides` it is the one that libvirt will take: the first free one that is not among these.
        VFs with claims of `giving_up` are free. `wish` says of which PF it should be.
        Raises Refused when no VF is free, or none that is free fits; TooManyMigrating when one would do later.
        """
        candidates = []
        incompatible: Optional[Refused] = None
        for vf in (vf for vf, of in sight.vfs.items() if of is pool):
            obstacle = self.obstacle(vf, sight, giving_up)
            if obstacle is None and mark is not None and vf in sight.facts:
                try:
                    compatibility.check_compatible(mark, vf, sight.facts[vf])
                except Refused as error:
                    incompatible, obstacle = error, str(error)
            candidates.append(Candidate(vf, obstacle))
        free = [candidate.vf for candidate in candidates if candidate.obstacle is None]
        if incompatible is not None and not free:
            raise incompatible
        if besides is not None:
            free = [vf for vf in free if vf not in besides][:1]
        of_pf: dict[PciAddress, list[PciAddress]] = {}
        for vf in free:
            pf = self._host.sysfs.physfn(vf)
            if pf is not None:
                of_pf.setdefault(pf, []).append(vf)
        full = self._slots.full(pool) if moves and free else frozenset()
        fitting = {pf: vfs for pf, vfs in of_pf.items() if pf not in full}
        if of_pf and (not fitting or _must_wait(wish, of_pf, fitting)):
            most = min(at_most(self._host, pool, pf) for pf in full)
            raise TooManyMigrating(pool, {pf: self._slots.guests(pf) for pf in pool.pfs if pf in full}, most)
        if preferred is not None and any(preferred in vfs for vfs in fitting.values()):
            return preferred
        costs = {pf: wish.cost(pf, len(vfs)) for pf, vfs in fitting.items()}
        best = {vf for pf, vfs in fitting.items() if costs[pf] == min(costs.values()) for vf in vfs}
        return compatibility.choose(pool, [each for each in candidates if each.obstacle or each.vf in best])

    def named(  # noqa: PLR0913 - as `choose`
        self,
        pool: Pool,
        vf: PciAddress,
        guest: str,
        sight: Sight,
        mark: Optional[Mark] = None,
        *,
        moves: bool = False,
        giving_up: Container[Claim] = (),
    ) -> PciAddress:
        """The VF that whoever migrates the guest has chosen, if it is free and fits; arguments as for `choose`.

        Raises Refused, TooManyMigrating.
        """
        if sight.vfs.get(vf) is not pool:
            raise Refused(
                f"{vf} is not a VF of pool '{pool.name}' on this host",
                "name a VF of the pool, or leave the choice to vfmigrate",
            )
        obstacle = self.obstacle(vf, sight, giving_up)
        if obstacle is not None:
            raise Refused(
                f"VF {vf} of pool '{pool.name}' cannot be given to guest '{guest}': it is {obstacle}",
                "choose another VF of the pool, or another host",
            )
        if mark is not None and vf in sight.facts:
            compatibility.check_compatible(mark, vf, sight.facts[vf])
        pf = self._host.sysfs.physfn(vf)
        if moves and pf is not None and pf in self._slots.full(pool):
            raise TooManyMigrating(pool, {pf: self._slots.guests(pf)}, at_most(self._host, pool, pf))
        return vf

    def obstacle(self, vf: PciAddress, sight: Sight, giving_up: Container[Claim] = ()) -> Optional[str]:
        """Why a VF is not free, or None; to be asked under the claims' lock. `giving_up` as for `choose`."""
        claim = self._store.blocking(vf)
        use = sight.use(vf, claim if claim not in giving_up else None)
        return use.text if use is not None else None
