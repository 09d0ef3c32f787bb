# SPDX-License-Identifier: GPL-2.0-or-later
"""Reserve VFs for a guest that migrates to here, all or none, and prepare them before anything is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Optional

from vfmigrate import deadline, journal
from vfmigrate.claims.claim_store import RESERVED, Claim
from vfmigrate.config.pool import Pool
from vfmigrate.converge.services import HostServices
from vfmigrate.converge.vf_use import Sight
from vfmigrate.domain import domain_xml
from vfmigrate.domain.domain_xml import Domain, readdress
from vfmigrate.errors import VfmigrateError
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.cleanup import CLEAN_UP_SECONDS, Cleanup
from vfmigrate.reservations.migration_slots import MigrationSlots
from vfmigrate.reservations.placement import Placement, Placements
from vfmigrate.reservations.selection import Selection
from vfmigrate.rules import compatibility, failover_pair, spread
from vfmigrate.rules.compatibility import CardFacts, TooManyMigrating
from vfmigrate.rules.spread import Sibling, Wish


class Reservations:
    """Reserves VFs, and rewrites the domain to name them."""

    def __init__(
        self,
        services: HostServices,
        *,
        slots: MigrationSlots,
        placements: Placements,
        cleanup: Cleanup,
    ) -> None:
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._converger = services.converger
        self._log = services.log
        self._slots = slots
        self._placements = placements
        self._cleanup = cleanup
        self._selection = Selection(services.host, services.store, slots, cleanup)

    def arrive(self, domain: Domain, xml: str) -> Optional[str]:
        """A guest migrates to here; returns its XML with the VFs it gets, or None when nothing changes.

        Raises Refused, HostError or InputError when it cannot come.
        """
        return self._arrive(domain, xml, self._placements.arriving(domain))

    def restore(self, domain: Domain, xml: str) -> Optional[str]:
        """As `arrive`, for a saved guest: it gets the VFs that it had, where they are free, as its definition says."""
        placements = self._placements.arriving(domain)
        return self._arrive(domain, xml, [replace(each, restored=True) for each in placements])

    def _arrive(self, domain: Domain, xml: str, placements: list[Placement]) -> Optional[str]:
        if not placements:
            return None
        interfaces = [placement.interface for placement in placements]
        compatibility.check_guest(domain, interfaces)
        # what rewrites XML is stricter than what reads it: it refuses before anything is taken
        readdress(xml, {each.position: each.address for each in interfaces if each.address is not None})
        pools = list({placement.pool.name: placement.pool for placement in placements}.values())
        self._selection.check_bridges(pools)
        for placement in placements:
            failover_pair.check_strategy(domain, placement.interface)
            self._placements.check_pair(domain, placement)
        self._slots.check_arrival(domain, ((placement.interface, placement.pool) for placement in placements))
        vfs = self._selection.vfs(pools)
        facts = self._selection.facts(vfs)
        claims = self._slots.in_turn(
            lambda: self._reserve(domain, placements, facts, vfs),
            lambda crowded: self._log_wait(domain, crowded),
        )
        try:
            for claim in claims.values():
                self._converger.converge(claim.vf)
                if claim.traits.state_travels:
                    self._converger.check_ready(claim.vf)
            return self._named_anew(domain, xml, placements, claims)
        except VfmigrateError:
            self._take_back(domain, claims)
            raise

    @staticmethod
    def _named_anew(
        domain: Domain, xml: str, placements: list[Placement], claims: dict[int, Claim]
    ) -> Optional[str]:
        """The XML with the VFs of these claims; None when nothing changes."""
        marks = {each.interface.position: each.interface.mark for each in placements}
        marked = {
            at: mark.address for at, mark in marks.items() if mark is not None and mark.address is not None
        }
        # libvirt gives VFs to these once they start, and by their old addresses they could be taken for each other
        macs = Counter(each.wanted_mac for each in domain.interfaces)
        by_libvirt = [each.interface for each in placements if each.interface.address is None]
        shared = [each.position for each in by_libvirt if macs[each.wanted_mac] > 1]
        forgotten = {marked[at] for at in shared if at in marked}
        if not claims and not forgotten:
            return None
        addresses = {position: claim.vf for position, claim in claims.items()}
        return readdress(xml, addresses, marked, forgotten)

    def _log_wait(self, domain: Domain, crowded: TooManyMigrating) -> None:
        self._log.event(
            "wait",
            f"guest '{domain.name}' waits at most {self._config.migrating_wait} s: {crowded.problem}",
            domain=domain.name,
            uuid=domain.uuid,
        )

    def _reserve(
        self,
        domain: Domain,
        placements: list[Placement],
        facts: dict[PciAddress, CardFacts],
        vfs: dict[PciAddress, Pool],
    ) -> dict[int, Claim]:
        """Take a VF for each interface that has an address to rewrite: all of them, or none.

        What is given up on the way is marked as releasing under the claims' lock and converged after it: converging
        holds a VF's lock while it asks for the claims', so whoever holds the claims' lock must not wait for a VF's.
        """
        given_up: list[Claim] = []
        placed: dict[str, list[Sibling]] = {}
        try:
            claims = self._selection.decide(
                vfs, facts, domain.uuid, lambda sight: self._take(domain, placements, sight, given_up, placed)
            )
            self._warn_of_lost_spread(domain, placed)
            return claims
        except VfmigrateError:
            self._slots.settled(domain.uuid)
            raise
        finally:
            self._cleanup.converge(*given_up)

    def _take(
        self,
        domain: Domain,
        placements: list[Placement],
        sight: Sight,
        given_up: list[Claim],
        placed: dict[str, list[Sibling]],
    ) -> dict[int, Claim]:
        """As `_reserve`, under the claims' lock; adds the claims that it released to `given_up`.

        `placed` gets the PFs of the VFs, by pool.
        """
        claims: dict[int, Claim] = {}
        placed.update({placement.pool.name: [] for placement in placements})
        by_libvirt: list[PciAddress] = []
        stale = [claim for claim in self._store.of_domain(domain.uuid) if self._is_stale(claim, sight)]
        reserved = {(claim.mac, claim.twin): claim.vf for claim in stale}
        try:
            self._expect(domain, by_libvirt)
            # what somebody has chosen is taken before vfmigrate chooses
            for placement in sorted(placements, key=lambda each: each.choice is None):
                interface = placement.interface
                mark = interface.mark if placement.moves else None
                preferred = reserved.get((interface.wanted_mac, domain_xml.twin(domain, interface)))
                if preferred is None and placement.restored:
                    preferred = interface.address
                besides = by_libvirt if interface.form == "network" else None
                if placement.choice is not None:
                    vf = self._selection.named(
                        placement.pool,
                        placement.choice,
                        domain.name,
                        sight,
                        mark,
                        moves=placement.moves,
                        giving_up=stale,
                    )
                else:
                    vf = self._selection.choose(
                        placement.pool,
                        sight,
                        mark,
                        preferred,
                        moves=placement.moves,
                        besides=besides,
                        giving_up=stale,
                        wish=self._wish(domain, placements, placement, placed[placement.pool.name]),
                    )
                here = self._host.sysfs.physfn(vf)
                if here is not None:
                    placed[placement.pool.name].append(Sibling(here, placement.source_pf))
                if interface.address is not None:
                    claim = self._placements.claim(domain, placement, vf, RESERVED)
                    trace = self._log.traces.under_way(domain.uuid)
                    claim = replace(claim, incoming=True, origin=placement.origin, trace=trace)
                    claims[interface.position] = self._store.put(claim)
                elif placement.moves:
                    by_libvirt.append(vf)
                    self._expect(domain, by_libvirt)
        except VfmigrateError:
            stale += claims.values()
            raise
        finally:
            # a claim that another has replaced on its VF is not there any more
            released = [self._store.release(claim, gone=claim.expires is None) for claim in stale]
            given_up += [claim for claim in released if claim is not None]
        return claims

    def _wish(
        self, domain: Domain, placements: list[Placement], placement: Placement, siblings: list[Sibling]
    ) -> Wish:
        """On which PF the VF of a placement should be."""
        own = [each for each in placements if each.pool is placement.pool]
        return Wish(
            source=placement.source_pf,
            siblings=siblings,
            sources=[each.source_pf for each in own],
            nodes=domain.memory_nodes,
            node_of={pf: self._host.sysfs.numa_node(pf) for pf in placement.pool.pfs}
            if domain.memory_nodes
            else {},
        )

    def _warn_of_lost_spread(self, domain: Domain, placed: Mapping[str, list[Sibling]]) -> None:
        for pool, siblings in placed.items():
            for pf in spread.lost(siblings):
                self._log.event(
                    "not-spread",
                    f"guest '{domain.name}' has VFs of pool '{pool}' on PF {pf} that were on different PFs on its "
                    "source: no other PF has a free VF that fits, and the loss of this one cuts them all",
                    level=journal.WARNING,
                    domain=domain.name,
                    uuid=domain.uuid,
                )

    @staticmethod
    def _is_stale(claim: Claim, sight: Sight) -> bool:
        """Whether a claim of the guest that arrives is of an earlier attempt or run.

        Of an attempt that libvirt gave up without a hook call, or of a client; or of a run whose end was not
        reported, since the guest is not here now. libvirt calls the hook before it refuses to migrate a guest that runs
        here: so a VF that a process has stays, and one of a failover pair, which its guest may be without for a time.
        """
        if claim.slot is not None:
            return False
        if claim.expires is not None:
            return claim.incoming
        return sight.is_idle(claim.vf) and not claim.traits.teamed

    def _take_back(self, domain: Domain, claims: dict[int, Claim]) -> None:
        with deadline.at_least(CLEAN_UP_SECONDS):
            self._cleanup.release(*claims.values())
        self._slots.settled(domain.uuid)

    def _expect(self, domain: Domain, vfs: list[PciAddress]) -> None:
        pfs = (self._host.sysfs.physfn(vf) for vf in vfs)
        self._slots.expect(domain, (pf for pf in pfs if pf is not None))
