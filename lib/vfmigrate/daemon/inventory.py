# SPDX-License-Identifier: GPL-2.0-or-later
"""Gathers the facts of this host for those who judge whether a guest can come or go (facts.py).

Reads only, with a bounded number of questions to each door however many VFs there are. What a door cannot answer is
reported as such, and the rest is answered. Asks libvirt whether guests are migrating, so it is never used for
a hook.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Callable, Optional

from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.config.pool import Pool
from vfmigrate.converge import uplinks
from vfmigrate.converge.services import HostServices
from vfmigrate.daemon.observation import ObservedPf, ObservedPool, ObservedVf, Observer, seen
from vfmigrate.domain.storage_xml import KnownStorage
from vfmigrate.errors import UsageError, VfmigrateError
from vfmigrate.host.local_files import LocalFiles
from vfmigrate.model.host_facts import (
    BridgeFacts,
    FileFacts,
    FindingFacts,
    HostFacts,
    MigrationFacts,
    PfFacts,
    PoolFacts,
    VfFacts,
)
from vfmigrate.model.pci import PciAddress
from vfmigrate.rpc.protocol import Request
from vfmigrate.version import VERSION

#: the most bridges or files that may be asked for at once, and the longest name
_MOST_NAMES = 64
_LONGEST_NAME = 4096


class Inventory:
    """Collects the facts of a host.

    `migrating` says by its UUID whether libvirt is migrating a guest, `storage` what disks and storage pools it knows.
    """

    def __init__(
        self,
        services: HostServices,
        observer: Observer,
        migrating: Callable[[str], bool],
        local_files: LocalFiles,
        storage: Callable[[], KnownStorage],
    ) -> None:
        self._host = services.host
        self._store = services.store
        self._observer = observer
        self._migrating = migrating
        self._local_files = local_files
        self._storage = storage
        self._bindings = services.converger.bindings

    def answer(self, request: Request) -> dict[str, Any]:
        """Answer the request `facts`. Raises UsageError."""
        files = (
            request.optional_text("salt") or "",
            _names(request, "files"),
            _names(request, "directories"),
        )
        return self.collect(_names(request, "bridges"), files, request.optional_text("pool")).plain()

    def collect(
        self,
        bridges: Sequence[str] = (),
        files: tuple[str, Sequence[str], Sequence[str]] = ("", (), ()),
        pool: Optional[str] = None,
    ) -> HostFacts:
        """The facts as they are now, and whether there are these bridges and files (`host_facts.file_arguments`).

        `pool` limits them to one pool of the host.
        """
        moving = self._moving()
        now = time.time()
        migration, of_migration = seen(self._local_files.migration)
        hook, of_hook = seen(self._local_files.hook)
        problems = [*self._observer.problems(), *filter(None, (of_migration, of_hook))]
        pools = tuple(self._pool(observed, moving) for observed in self._observer.pools(pool))
        return HostFacts(
            host=socket.gethostname(),
            vfmigrate=VERSION,
            kernel=os.uname().release,
            time=now,
            switch=self._observer.switch(),
            migration=migration if migration is not None else MigrationFacts(),
            pools=pools,
            moving_at_once=min((pool.max_migrating for pool in pools), default=4),
            hook=hook,
            bridges=self._bridges(bridges),
            files=self._files(*files),
            problems=tuple(FindingFacts("warning", each.problem, each.remedy) for each in problems),
        )

    def _files(self, salt: str, files: Sequence[str], directories: Sequence[str]) -> tuple[FileFacts, ...]:
        if not files:
            return ()
        try:
            known = self._storage()
        except VfmigrateError:
            known = KnownStorage()  # without libvirt nothing is known of any file
        return tuple(self._local_files.files(salt, files, directories, known))

    def _bridges(self, names: Sequence[str]) -> tuple[BridgeFacts, ...]:
        try:
            return tuple(self._local_files.bridges(names))
        except VfmigrateError:
            return ()  # what is wrong with the switch is reported as such

    def _moving(self) -> frozenset[PciAddress]:
        """The VFs whose guests are on the way here, or away from here."""
        found = set()
        leaving: dict[str, bool] = {}
        for claim in self._store.all_valid():
            if not claim.traits.uses_slot:
                continue
            if not claim.incoming and claim.state == PLUGGED and claim.domain not in leaving:
                leaving[claim.domain] = self._leaves(claim)
            if claim.incoming or leaving.get(claim.domain, False):
                found.add(claim.vf)
        return frozenset(found)

    def _leaves(self, claim: Claim) -> bool:
        try:
            return self._migrating(claim.domain)
        except VfmigrateError:
            return False  # it has just ended, or libvirt does not run, and then nothing moves

    def _pool(self, observed: ObservedPool, moving: frozenset[PciAddress]) -> PoolFacts:
        pool = observed.pool
        return PoolFacts(
            name=pool.name,
            bridge=pool.bridge,
            bridge_exists=observed.bridge_exists,
            mtu=self._mtu(pool),
            vlan=pool.vlan,
            vlans=tuple(sorted(pool.vlans)),
            network=pool.libvirt_network,
            max_migrating=min(each.at_most for each in observed.pfs),
            pfs=tuple(self._pf(each, moving) for each in observed.pfs),
            findings=_findings(observed),
        )

    def _mtu(self, pool: Pool) -> Optional[int]:
        if pool.mtu is not None:
            return pool.mtu
        try:
            return min((link.mtu for link in uplinks.devices(self._host, pool)), default=None)
        except VfmigrateError:
            return None  # it is among the pool's findings

    def _pf(self, observed: ObservedPf, moving: frozenset[PciAddress]) -> PfFacts:
        address, state, card = str(observed.address), observed.state, observed.card
        if not observed.exists:
            return PfFacts(address, problem=f"there is no PCI device {address}")
        if state is None or card is None:
            return PfFacts(address, problem=observed.problem)
        try:
            variant = self._host.sysfs.variant_driver(state.vfs[0].vf) if state.vfs else None
        except VfmigrateError as error:
            return PfFacts(address, problem=str(error))
        return PfFacts(
            address=address,
            pci_id=str(state.pci_id),
            psid=card.psid,
            firmware=card.firmware,
            mode=state.mode,
            variant_driver=variant,
            support=observed.answer.support,
            support_unknown=observed.answer.unknown,
            vfs=tuple(self._vf(each, moving) for each in observed.vfs),
        )

    def _vf(self, observed: ObservedVf, moving: frozenset[PciAddress]) -> VfFacts:
        vf, claim = observed.state, observed.claim
        return VfFacts(
            address=str(vf.vf),
            driver=vf.driver,
            vfio=vf.vfio,
            migratable=vf.migratable,
            msix=observed.msix,
            holder=observed.holder,
            guest=claim.domain if claim else None,
            mac=claim.mac if claim else None,
            state=claim.state if claim else None,
            strategy=claim.strategy if claim else None,
            bound_early=self._bindings.is_early(vf.vf),
            moving=vf.vf in moving,
        )


def _findings(observed: ObservedPool) -> tuple[FindingFacts, ...]:
    found = [FindingFacts(each.severity, each.text, each.remedy) for each in observed.findings]
    told = (observed.bridge_problem, *(each.problem for each in observed.pfs))
    if observed.findings_problem is not None and observed.findings_problem not in told:
        found.append(FindingFacts("warning", observed.findings_problem, ""))
    return tuple(found)


def _names(request: Request, key: str) -> list[str]:
    names = request.words(key)
    if len(names) > _MOST_NAMES or any(len(name) > _LONGEST_NAME for name in names):
        raise UsageError(f"request '{request.name}' has too many '{key}'")
    return names
