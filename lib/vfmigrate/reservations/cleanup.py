# SPDX-License-Identifier: GPL-2.0-or-later
"""Converge where an error can no longer be returned: it is logged, and the next reconcile tries again.

What fails on one VF, or with the file of one claim, keeps no other VF from being converged. Only a switch that does not
answer is asked once and not for each VF: waiting for it would add up.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any, Optional

from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.converge.converger import Converger
from vfmigrate.errors import Unreachable, VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress

#: seconds for giving back what a guest was given that is refused after all, also when the time of the event is up; the
#: next reconcile does the rest
CLEAN_UP_SECONDS = 6.0


class Cleanup:
    """Releases claims, and converges VFs whose claim changed; raises nothing."""

    def __init__(self, store: ClaimStore, converger: Converger, log: Journal) -> None:
        self._store = store
        self._converger = converger
        self._log = log

    def release(self, *claims: Claim, gone: bool = False) -> list[tuple[Claim, list[str]]]:
        """End claims: mark them as releasing, make their VFs free, drop them.

        Returns those that were still there, each with what was changed; those that could not be finished are among
        them and stay releasing. `gone`: their guest is gone, and libvirt has finished with the VFs.
        """
        marked = [self._store.release(claim, gone=gone) for claim in claims]
        releasing = [claim for claim in marked if claim is not None]
        return list(zip(releasing, self.converge(*releasing)))

    def release_expired(self, vfs: Container[PciAddress]) -> None:
        """End the claims on these VFs that have expired, without waiting for the next reconcile."""
        claims = self._store.release_expired(vfs)
        self.converge(*claims)
        for claim in claims:
            self._log.event(
                "expired",
                f"released the claim of guest '{claim.domain_name}' on {claim.vf}: it expired before the guest started",
                domain=claim.domain_name,
                uuid=claim.domain,
                vf=str(claim.vf),
            )

    def finish(self) -> list[tuple[Claim, list[str]]]:
        """Make the VFs free whose claims are releasing; returns the claims that were dropped, each with the changes."""
        claims = self._store.all_releasing()
        done = zip(claims, self.converge(*claims))
        return [(claim, changes) for claim, changes in done if self._store.releasing(claim.vf) is None]

    def converge(self, *claims: Claim) -> list[list[str]]:
        """Converge the VFs of these claims; returns for each what was changed."""
        for claim in claims:
            problem = self._store.problem(claim.vf)
            if problem is not None:
                self._log_failure(claim.vf, claim, problem)
        return self._converge([(claim.vf, claim) for claim in claims])

    def converge_vfs(self, vfs: Iterable[PciAddress]) -> list[str]:
        """Converge VFs, with or without claims; returns what was changed."""
        return [change for done in self._converge([(vf, None) for vf in vfs]) for change in done]

    def _converge(self, vfs: list[tuple[PciAddress, Optional[Claim]]]) -> list[list[str]]:
        done: list[list[str]] = []
        unanswered: Optional[Unreachable] = None
        for vf, claim in vfs:
            changes: list[str] = []
            try:
                if unanswered is None:
                    changes = self._converger.converge(vf)
                else:
                    self._log_failure(vf, claim, unanswered.about("left for the next reconcile"))
            except Unreachable as error:
                unanswered = error
                self._log_failure(vf, claim, error)
            except VfmigrateError as error:
                self._log_failure(vf, claim, error)
            done.append(changes)
        return done

    def _log_failure(self, vf: PciAddress, claim: Optional[Claim], error: VfmigrateError) -> None:
        whose = f" of guest '{claim.domain_name}'" if claim is not None else ""
        fields: dict[str, Any] = {"domain": claim.domain_name} if claim is not None else {}
        self._log.failed("converge-failed", error, about=f"VF {vf}{whose}", vf=str(vf), **fields)
