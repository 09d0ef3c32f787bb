# SPDX-License-Identifier: GPL-2.0-or-later
"""pytest's report of a run in JUnit's format: how many tests passed, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree


@dataclass(frozen=True)
class Report:
    """How a run of pytest went; each failure is the test's name and the first line of what went wrong."""

    passed: int
    skipped: int
    failures: Sequence[str]

    @property
    def tried(self) -> int:
        """How many tests ran."""
        return self.passed + len(self.failures)


def read(path: Path) -> Report:
    """Read the file that pytest wrote for `--junit-xml`."""
    passed = skipped = 0
    failures = []
    for case in ElementTree.parse(path).iter("testcase"):
        problems = [each for each in case if each.tag in {"failure", "error"}]
        if problems:
            message = (problems[0].get("message") or "").partition("\n")[0]
            failures.append(f"{case.get('name')}: {message}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return Report(passed, skipped, failures)
