# SPDX-License-Identifier: GPL-2.0-or-later
"""The report of a run: what each scenario observed and how it ended, as build/testbed/report.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

from tests.testbed.timeline import Event

PASSED = "passed"
FAILED = "failed"

BUILD = Path(__file__).resolve().parents[2] / "build" / "testbed"


@dataclass
class Record:
    """What is known about one scenario; it starts as failed and is filled while the scenario runs.

    For a guest with several VFs, the scalar fields describe the first one, and `interfaces` describes each.
    """

    name: str
    outcome: str = FAILED
    why: Optional[str] = "it did not run"
    source_vf: Optional[str] = None
    destination_vf: Optional[str] = None
    mac: Optional[str] = None
    source_vlan: Optional[int] = None
    destination_vlan: Optional[int] = None
    interfaces: list[dict[str, Any]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    downtime_ms: Optional[float] = None
    pings_sent: int = 0
    pings_lost: int = 0
    # peer.Hearing says what these two are
    longest_silence_ms: Optional[float] = None
    longest_wait_ms: Optional[float] = None
    # scenario-specific figures, by name
    measured: dict[str, Any] = field(default_factory=dict)
    left_behind: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The record for report.json; `why` only when it failed."""
        told = asdict(self)
        if self.outcome == PASSED:
            del told["why"]
        return told


def from_json(told: Mapping[str, Any]) -> Record:
    """The record that as_json() wrote."""
    events = [Event(**event) for event in told.get("events", [])]
    return Record(**{"why": None, **told, "events": events})


def write(
    path: Path,
    versions: Mapping[str, str],
    records: Sequence[Record],
    tree: str = "",
    seed: Optional[str] = None,
) -> None:
    """Write the report, whole or not at all.

    `tree` is the digest of the sources that were tested, `seed` that of a shuffled order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "versions": dict(versions),
        "tree": tree,
        **({"seed": seed} if seed is not None else {}),
        "scenarios": [record.as_json() for record in records],
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.rename(path)
