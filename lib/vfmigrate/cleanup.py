# SPDX-License-Identifier: GPL-2.0-or-later
"""Converging where nothing may be refused any more: what fails is told, and done by the next reconcile."""

from __future__ import annotations

from vfmigrate import journal
from vfmigrate.claims import Claim, ClaimStore
from vfmigrate.converge import Converger
from vfmigrate.errors import VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.pci import PciAddress


class Cleanup:
    """Gives VFs back, and converges those that changed hands; raises nothing."""

    def __init__(self, store: ClaimStore, converger: Converger, log: Journal) -> None:
        self._store = store
        self._converger = converger
        self._log = log

    def drop(self, claim: Claim) -> bool:
        """Give a claimed VF back; returns False when the claim is not there any more."""
        dropped = self._store.drop(claim)
        if dropped:
            self.converge(claim, reset_mac=claim.set_mac)
        return dropped

    def converge(self, claim: Claim, *, reset_mac: bool = False) -> list[str]:
        """Converge a claim's VF; returns what was changed."""
        whose = f"VF {claim.vf} of guest '{claim.domain_name}'"
        return self._try(claim.vf, whose, reset_mac=reset_mac, domain=claim.domain_name)

    def converge_vf(self, vf: PciAddress) -> list[str]:
        """Converge a VF that may be anybody's; returns what was changed."""
        return self._try(vf, f"VF {vf}")

    def _try(self, vf: PciAddress, whose: str, *, reset_mac: bool = False, **fields: str) -> list[str]:
        try:
            return self._converger.converge(vf, reset_mac=reset_mac)
        except VfmigrateError as error:
            told = f"{whose}: {error}"
            self._log.event("converge-failed", told, level=journal.WARNING, vf=str(vf), **fields)
            return []
