# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests from which an orchestrator unplugged VFs, and which then did not leave.

oVirt's engine unplugs the VFs of passthrough profiles before a migration and plugs others in on the destination. When
the migration fails it plugs nothing back, and vdsm has no hook for that. The VF is free again; this module logs that
the guest is without it. It keeps its notes in memory only: after a restart nothing is logged, and nothing else is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Callable, Optional

from vfmigrate import journal
from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.errors import VfmigrateError
from vfmigrate.journal import Journal

#: seconds between vdsm's announcement of a migration and its beginning in libvirt, with room to spare
_PATIENCE = 90.0


@dataclass(frozen=True)
class _Unplugged:
    """A VF that a running guest had, and when its guest was last about to leave (None: never)."""

    claim: Claim
    leaving: Optional[float] = None


class Departures:
    """Remembers what was unplugged, and logs which guests stayed."""

    def __init__(self, store: ClaimStore, log: Journal, migrating: Callable[[str], bool]) -> None:
        """`migrating`: whether a guest is being migrated; called in `look` only, as it asks libvirt."""
        self._store = store
        self._log = log
        self._migrating = migrating
        self._unplugged: dict[tuple[str, Optional[str]], _Unplugged] = {}
        self._lock = threading.Lock()

    def unplugged(self, claim: Claim) -> None:
        """A VF was unplugged from its running guest."""
        with self._lock:
            self._unplugged[claim.domain, claim.mac] = _Unplugged(claim)

    def leaving(self, domain: str) -> None:
        """A guest is about to migrate away."""
        with self._lock:
            for key, one in self._unplugged.items():
                if key[0] == domain:
                    self._unplugged[key] = replace(one, leaving=self._store.clock())

    def look(self, running: Container[str]) -> None:
        """Log the guests that should have left and have not; may call libvirt. `running`: guests that run here."""
        with self._lock:
            noted = list(self._unplugged.items())
        for key, one in noted:
            domain, mac = key
            back = any(claim.mac == mac for claim in self._store.of_domain(domain))
            if domain not in running or back:
                self._forget(key, one)
            elif one.leaving is not None and self._store.clock() > one.leaving + _PATIENCE:
                self._log_if_stayed(key, one)

    def _log_if_stayed(self, key: tuple[str, Optional[str]], one: _Unplugged) -> None:
        try:
            if self._migrating(one.claim.domain):
                return
        except VfmigrateError:
            return  # looked at again
        if self._forget(key, one):
            self._log.event(
                "vf-not-plugged-back",
                f"guest '{one.claim.domain_name}' did not migrate and runs here without its VF with MAC "
                f"{one.claim.mac}: the engine does not plug a VF in again after a failed migration; the VF is free "
                f"in pool '{one.claim.pool}'; plug the vNIC in the engine",
                level=journal.WARNING,
                domain=one.claim.domain_name,
                uuid=one.claim.domain,
                vf=str(one.claim.vf),
            )

    def _forget(self, key: tuple[str, Optional[str]], one: _Unplugged) -> bool:
        with self._lock:
            if self._unplugged.get(key) != one:
                return False  # it was unplugged again meanwhile
            del self._unplugged[key]
            return True
