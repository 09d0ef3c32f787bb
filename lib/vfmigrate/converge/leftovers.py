# SPDX-License-Identifier: GPL-2.0-or-later
"""What is left on free VFs without a claim that explains it: a guest's MAC, a driver_override, a foreign driver.

A VF without a claim may look like that because libvirt is about to give it to a guest: it binds the VF of a hostdev
network, and sets its MAC, before a hook shows which VF it chose. So what is seen is remembered, and is left over when
it is still there after the time that a guest may take to start. Kept in memory only.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Callable

from vfmigrate.model.pci import PciAddress


@dataclass(frozen=True)
class _Seen:
    what: frozenset[str]
    since: float


class Leftovers:
    """Remembers since when there is something on each free VF; thread-safe."""

    def __init__(self, clock: Callable[[], float], patience: float) -> None:
        """`clock` and `patience` in seconds; after `patience` what is seen is left over."""
        self._clock = clock
        self._patience = patience
        self._seen: dict[PciAddress, _Seen] = {}
        self._lock = threading.Lock()

    def are_old(self, vf: PciAddress, what: list[str]) -> bool:
        """Note what is seen on a free VF; whether all of it has been there for long enough."""
        now, seen = self._clock(), frozenset(what)
        if not seen:
            self.forget(vf)
            return False
        with self._lock:
            before = self._seen.get(vf)
            if before is None or not seen <= before.what:
                self._seen[vf] = _Seen(seen, now)
                return False
            return now - before.since >= self._patience

    def forget(self, vf: PciAddress) -> None:
        """A VF is not free, or nothing is left on it."""
        with self._lock:
            self._seen.pop(vf, None)
