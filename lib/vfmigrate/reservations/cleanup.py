# SPDX-License-Identifier: GPL-2.0-or-later
"""Converge where an error can no longer be returned: it is logged, and the next reconcile tries again."""

from __future__ import annotations

from typing import Optional

from vfmigrate import journal
from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.converge.converger import Converger
from vfmigrate.errors import VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress


def _whose(claim: Claim) -> str:
    return f"VF {claim.vf} of guest '{claim.domain_name}'"


class Cleanup:
    """Drops claims, and converges VFs whose claim changed; raises nothing."""

    def __init__(self, store: ClaimStore, converger: Converger, log: Journal) -> None:
        self._store = store
        self._converger = converger
        self._log = log

    def drop(self, claim: Claim, *, gone: bool = False) -> Optional[list[str]]:
        """Give a claimed VF back; returns what was changed, or None when the claim is not there any more.

        `gone`: its guest is gone, and libvirt has finished with the VF.
        """
        return self.converge_after(claim, gone=gone) if self._store.drop(claim) else None

    def converge_after(self, claim: Claim, *, gone: bool = False) -> list[str]:
        """Converge a VF that was given back; returns what was changed. `gone` as for `drop`."""
        return self._try(claim.vf, _whose(claim), after=claim, gone=gone, domain=claim.domain_name)

    def converge(self, claim: Claim) -> list[str]:
        """Converge a claim's VF; returns what was changed."""
        return self._try(claim.vf, _whose(claim), domain=claim.domain_name)

    def converge_vf(self, vf: PciAddress) -> list[str]:
        """Converge a VF, with or without a claim; returns what was changed."""
        return self._try(vf, f"VF {vf}")

    def _try(
        self,
        vf: PciAddress,
        whose: str,
        *,
        after: Optional[Claim] = None,
        gone: bool = False,
        **fields: str,
    ) -> list[str]:
        try:
            return self._converger.converge(vf, after=after, gone=gone)
        except VfmigrateError as error:
            text = f"{whose}: {error}"
            self._log.event("converge-failed", text, level=journal.WARNING, vf=str(vf), **fields)
            return []
