# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VFs of this host are free, by the host and by the claims; `compatibility` chooses among them.

Whoever claims a VF found here holds the claims' lock from before looking until after taking.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Optional

from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.config.pool import Pool
from vfmigrate.converge.observe import Host
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.migration_slots import MigrationSlots, at_most
from vfmigrate.rules import compatibility
from vfmigrate.rules.compatibility import Candidate, CardFacts, TooManyMigrating


class Selection:
    """Finds free VFs of a pool."""

    def __init__(self, host: Host, store: ClaimStore, slots: MigrationSlots) -> None:
        self._host = host
        self._store = store
        self._slots = slots

    def check_bridges(self, pools: Iterable[Pool]) -> None:
        """Raises Refused when a bridge that a VF of these pools is plugged into is not on this host."""
        for bridge in sorted({pool.bridge for pool in pools}):
            if not self._host.ovs.bridge_exists(bridge):
                raise Refused(
                    f"there is no bridge '{bridge}' on this host", f"run: ovs-vsctl add-br {bridge}"
                )

    def facts(self, pools: Iterable[Pool]) -> dict[PciAddress, CardFacts]:
        """PSID, firmware and MSI-X of every VF of these pools (asked of the card once for each PF)."""
        facts = {}
        for pool in pools:
            for pf in pool.pfs:
                if not self._host.sysfs.exists(pf):
                    continue
                card = self._host.card(pf)
                for vf in self._host.sysfs.vfs(pf):
                    facts[vf] = CardFacts(card.psid, card.firmware, self._host.sysfs.msix_count(vf))
        return facts

    def choose(  # noqa: PLR0913 - all that the choice depends on
        self,
        pool: Pool,
        facts: Mapping[PciAddress, CardFacts],
        mark: Optional[Mark] = None,
        preferred: Optional[PciAddress] = None,
        *,
        moves: bool = False,
        besides: Optional[Container[PciAddress]] = None,
        giving_up: Container[Claim] = (),
    ) -> PciAddress:
        """A free VF of a pool, `preferred` where that can be had; with a mark only one that can take its state.

        With `moves` it is of a physical function that may have another VF migrating now. With `besides` it is the one
        that libvirt will take: the first free one that is not among these. VFs with claims of `giving_up` are free.
        Raises Refused when no VF is free, or none that is free fits; TooManyMigrating when one would do later.
        """
        candidates = []
        incompatible: Optional[Refused] = None
        for pf in pool.pfs:
            for vf in self._host.sysfs.vfs(pf):
                obstacle = self.obstacle(vf, pool, giving_up)
                if obstacle is None and mark is not None:
                    try:
                        compatibility.check_compatible(mark, vf, facts[vf])
                    except Refused as error:
                        incompatible, obstacle = error, str(error)
                candidates.append(Candidate(vf, obstacle))
        free = [candidate.vf for candidate in candidates if candidate.obstacle is None]
        if incompatible is not None and not free:
            raise incompatible
        if besides is not None:
            free = [vf for vf in free if vf not in besides][:1]
        full = self._slots.full(pool) if moves and free else frozenset()
        fitting = [vf for vf in free if self._host.sysfs.physfn(vf) not in full]
        if free and not fitting:
            most = min(at_most(self._host, pool, pf) for pf in full)
            raise TooManyMigrating(pool, {pf: self._slots.guests(pf) for pf in pool.pfs if pf in full}, most)
        if preferred is not None and preferred in fitting:
            return preferred
        return compatibility.choose(
            pool, [each for each in candidates if each.obstacle or each.vf in fitting]
        )

    def obstacle(self, vf: PciAddress, pool: Pool, giving_up: Container[Claim] = ()) -> Optional[str]:
        """Why a VF of a pool is not free, or None; it is not while its last claim is releasing."""
        claim = self._store.get(vf) or self._store.releasing(vf)
        if claim is not None and claim not in giving_up:
            return claim_store.holder(claim)
        driver = self._host.sysfs.driver(vf)
        if self._host.sysfs.is_vfio(driver) and self._host.sysfs.in_use(vf):
            return "in use through VFIO by a process that vfmigrate does not know"
        if pool.free_vfs == "host":
            return None  # in such a pool the host's driver has every free VF, and its interface may be up
        netdev = self._host.netdev_up(vf)
        return f"in use by this host as {netdev}" if netdev is not None else None
