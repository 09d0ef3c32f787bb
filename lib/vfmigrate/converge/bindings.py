# SPDX-License-Identifier: GPL-2.0-or-later
"""VFs that were in use while they were not migratable.

Where there is such a flag, the variant driver reads it when it binds, and nothing shows later what it read: once the
flag was set, a VF whose guest cannot migrate looks like any other. So each observation is noted here. Kept in memory
only: what happened before the daemon started is not known.
"""

from __future__ import annotations

import threading

from vfmigrate.converge.observe import VfState
from vfmigrate.model.pci import PciAddress


class Bindings:
    """Remembers them until they are bound again; thread-safe."""

    def __init__(self) -> None:
        self._early: set[PciAddress] = set()
        self._lock = threading.Lock()

    def note(self, state: VfState) -> None:
        """Note the observed state of a VF."""
        with self._lock:
            if not state.vfio:
                self._early.discard(state.vf)
            elif state.migratable is False and state.in_use:
                self._early.add(state.vf)

    def rebound(self, vf: PciAddress) -> None:
        """A VF was unbound from its driver."""
        with self._lock:
            self._early.discard(vf)

    def is_early(self, vf: PciAddress) -> bool:
        """Whether a VF has been bound since before it was migratable, as far as is known."""
        with self._lock:
            return vf in self._early
