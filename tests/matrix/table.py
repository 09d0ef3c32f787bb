# SPDX-License-Identifier: GPL-2.0-or-later
"""The results of the cells and their table, which docs/testing.md has too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.matrix import versions


@dataclass
class Result:
    """What became of a cell."""

    cell: str
    #: by program or library, one version for each release of the cell
    versions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    passed: int = 0
    skipped: int = 0
    #: how many of those that passed did so at the second try
    again: int = 0
    failures: Sequence[str] = ()
    #: why the cell could not run at all
    missing: str = ""
    seconds: float = 0

    @property
    def outcome(self) -> str:
        """One word."""
        if self.missing:
            return "not run"
        return "failed" if self.failures or not self.passed else "passed"


def lines(results: Sequence[Result]) -> list[str]:
    """The table in Markdown, padded so that it can be read as it is."""
    titles = ["cell", *versions.NAMES, "outcome", "passed", "failed", "skipped", "time"]
    rows = [titles, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    made = ["| " + " | ".join(text.ljust(width) for text, width in zip(row, widths)) + " |" for row in rows]
    return [made[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *made[1:]]


def _row(result: Result) -> list[str]:
    said = [" → ".join(dict.fromkeys(result.versions.get(name, ["-"]))) for name in versions.NAMES]
    passed = f"{result.passed} ({result.again} at the second try)" if result.again else str(result.passed)
    counts = [passed, str(len(result.failures)), str(result.skipped)]
    if result.missing:
        counts = ["-", "-", "-"]
    minutes, seconds = divmod(round(result.seconds), 60)
    return [result.cell, *said, result.outcome, *counts, f"{minutes}:{seconds:02}"]
