# SPDX-License-Identifier: GPL-2.0-or-later
"""Claim the VFs that running domains hold without a claim: of guests older than the daemon, of VFs plugged in."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import PLUGGED, Claim, ClaimStore
from vfmigrate.config.pool import Pool
from vfmigrate.converge.observe import Host
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.errors import HostError, VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.model import strategy
from vfmigrate.reservations.placement import Placements, place
from vfmigrate.rules import failover_pair, unmatched_marks

# Longer than libvirt takes to answer.
_REMEMBERED_SECONDS = 600.0


class Adoption:
    """Adopts; the caller converges."""

    def __init__(self, host: Host, store: ClaimStore, placements: Placements, log: Journal) -> None:
        self._host = host
        self._store = store
        self._placements = placements
        self._log = log
        #: when domains that had run here were gone
        self._gone: dict[str, float] = {}

    def gone(self, uuid: str) -> None:
        """A domain does not run here any more; a caller that saw it running earlier does not know that."""
        now = self._store.clock()
        with self._store.lock:
            self._gone = {each: at for each, at in self._gone.items() if at > now - _REMEMBERED_SECONDS}
            self._gone[uuid] = now

    def adopt(self, domain: Domain, seen: float) -> list[Claim]:
        """Claim what a running domain holds and nobody has claimed; returns the claims that are new or changed.

        What another domain has claimed is logged and left. `seen`: the claims' clock when libvirt was asked for the
        domain, which may be gone by now.
        """
        adopted = []
        for interface, pool in self._in_pools(domain):
            try:
                if interface.address is None:
                    continue
                current = self._store.valid(interface.address)
                if current is not None and current.domain == domain.uuid:
                    adopted += self._follow(domain, interface, current)
                    continue
                self._check_pool(domain, interface, pool)
                placement = place(domain, interface, pool)
                claim = self._placements.claim(domain, placement, interface.address, PLUGGED)
                lost = self._lost_claim(claim)
                with self._store.lock:
                    current = self._store.valid(interface.address)
                    if current is not None and current.domain == domain.uuid:
                        continue
                    if self._gone.get(domain.uuid, seen - 1) >= seen:
                        continue
                    if current is not None:
                        raise HostError(
                            f"guest '{domain.name}' runs with VF {current.vf}, {claim_store.holder(current)}"
                        )
                    adopted.append(self._store.put(replace(claim, expires=None, id=lost or claim.id)))
            except VfmigrateError as error:
                self._log.failed("adopt-failed", error, domain=domain.name)
        return adopted

    def _in_pools(self, domain: Domain) -> list[tuple[VfInterface, Pool]]:
        """The interfaces of a domain that have a VF of our pools, with their marks.

        Where nothing says which mark belongs to which VF, those without a mark are left out: a VF without its mark
        could reach networks that it must not.
        """
        pools: dict[int, Optional[Pool]] = {}
        for interface in domain.interfaces:
            try:
                pools[interface.position] = self._placements.pool_here(domain, interface)
            except VfmigrateError as error:
                self._log.failed("adopt-failed", error, domain=domain.name)
        try:
            interfaces = self._placements.with_marks(domain, pools)
        except VfmigrateError as error:
            self._log.failed("adopt-failed", error, domain=domain.name)
            interfaces = [each for each in domain.interfaces if each.mark is not None]
        found = ((interface, pools.get(interface.position)) for interface in interfaces)
        return [(interface, pool) for interface, pool in found if pool is not None]

    def _check_pool(self, domain: Domain, interface: VfInterface, pool: Pool) -> None:
        """Raises Refused for a VF whose mark names another pool of this host."""
        mark = interface.mark
        if mark is not None and mark.pool != pool.name and self._placements.has_pool(mark.pool):
            raise unmatched_marks.wrong_pool(domain, interface, mark, pool.name)

    def _follow(self, domain: Domain, interface: VfInterface, claim: Claim) -> list[Claim]:
        """A VF that became half of a pair while its guest runs, or is it no longer, crosses in another way now."""
        half, mark = failover_pair.is_half(domain, interface), interface.mark
        now = claim.traits
        if half or (now.teamed and mark is not None):
            now = strategy.of_interface(teamed=half, marked=mark.strategy if mark is not None else None)
        if now == claim.traits or claim.expires is not None:
            return []
        changed = self._store.change(claim, strategy=now.name)
        return [changed] if changed is not None else []

    def _lost_claim(self, claim: Claim) -> Optional[str]:
        """The id of an earlier claim, lost since: the VF's port is still in its name, and serves the same domain.

        A claim adopted under another id could not have that port, and it would go as nobody's, with a guest on it.
        """
        port = self._host.observe(claim.vf).switch_port
        serves = port is not None and port.external_ids.get("vm-id") == claim.domain
        return port.owner if port is not None and serves else None
