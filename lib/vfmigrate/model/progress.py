# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a migration is, and who shows it to the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Protocol


@dataclass(frozen=True)
class Progress:
    """How far a migration is; sizes in bytes, rates in bytes a second."""

    elapsed: float  # seconds
    total: int = 0
    remaining: int = 0
    rate: int = 0
    #: how fast the guest writes memory; 0 until it was measured once
    dirty_rate: int = 0
    #: the pass that QEMU is in, from 1 on
    iteration: int = 0
    disk_total: int = 0
    disk_remaining: int = 0
    #: of the VFs' device state, what was copied so far; None where libvirt does not report it
    vf_state: Optional[int] = None
    #: the downtime that QEMU expects, in ms; None until it knows
    expected_downtime: Optional[int] = None

    @property
    def part(self) -> float:
        """What of memory and disks is there already, from 0 to 1."""
        total = self.total + self.disk_total
        return 1 - (self.remaining + self.disk_remaining) / total if total else 0.0

    def needed_ms(self, size: int) -> float:
        """How many ms it takes to copy this many bytes, by the present rate."""
        return size * 1000 / self.rate if self.rate else float("inf")


class Display(Protocol):
    """What shows the user how a migration goes (cli/display.py)."""

    def event(self, event: str, text: str, /, **facts: Any) -> None:
        """Something happened."""

    def progress(self, now: Progress, allowed_ms: int, /) -> None:
        """This is how far it is."""
