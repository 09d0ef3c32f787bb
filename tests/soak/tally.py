# SPDX-License-Identifier: GPL-2.0-or-later
"""What a part of the soak tests tried, and what went wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

OPERATIONS = "operations"
FAULTS = "faults"
INPUTS = "inputs"
# A thousand failures of the same kind need no thousand lines.
_TOLD = 20


@dataclass
class Tally:
    """One part: how many attempts of each kind, and a sentence for each failure."""

    name: str
    #: OPERATIONS, FAULTS or INPUTS
    kind: str
    tried: int = 0
    wrong: int = 0
    failures: list[str] = field(default_factory=list)
    #: further figures, by name
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def fail(self, why: str) -> None:
        """Count a failure and print it at once, because the report comes late."""
        self.wrong += 1
        print(f"{self.name}: {why}", flush=True)
        if len(self.failures) < _TOLD:
            self.failures.append(" ".join(why.split())[:500])

    def as_json(self) -> dict[str, Any]:
        """The tally for the report."""
        return asdict(self)
