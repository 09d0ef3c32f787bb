# SPDX-License-Identifier: GPL-2.0-or-later
"""Which scenarios a run executes and in which order: shuffled by a seed, or only those that have not passed yet."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from tests.testbed import cache, report
from tests.testbed.packages import CLONE
from tests.testbed.report import PASSED, Record

RANDOM_SEED = "random"

# The parts of the tree on which the outcome of a scenario depends.
SOURCES = (
    *("Makefile", "completion", "docs/ansible", "hooks", "lib", "man", "rpm", "setup.cfg", "systemd"),
    *("tests/patience.py", "tests/testbed", "udev", "vdsm_plugin"),
)


@dataclass(frozen=True)
class Selection:
    """The scenarios of a run by name, in order; `passed` has the records of those that need not run again."""

    names: Sequence[str]
    seed: Optional[str] = None
    passed: Sequence[Record] = ()

    @property
    def remaining(self) -> list[str]:
        """The scenarios that are to run."""
        passed = {record.name for record in self.passed}
        return [name for name in self.names if name not in passed]


def new_seed(asked: str) -> str:
    """The seed that was asked for; a random one for RANDOM_SEED."""
    return str(random.SystemRandom().randrange(10**6)) if asked == RANDOM_SEED else asked


def shuffled(names: Sequence[str], seed: str) -> list[str]:
    """The names in the order that belongs to a seed, whatever order they come in."""
    return random.Random(seed).sample(sorted(names), len(names))


def tree() -> str:
    """A digest of everything in this clone on which the outcome of a scenario depends."""
    parts: dict[str, cache.Parts] = {}
    for name in SOURCES:
        path = CLONE / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.suffix != ".pyc" and ".egg-info" not in str(file):
                parts[str(file.relative_to(CLONE))] = cache.digest(file)
    return cache.key(parts)


def read_report(path: Path) -> dict[str, Any]:
    """The report of the last run; empty when there is none that can be read."""
    try:
        read: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return read


def resumed(names: Sequence[str], read: dict[str, Any], digest: str) -> Selection:
    """The selection that goes on where the reported run stopped.

    A report of another tree counts for nothing. The order is that of the report; scenarios that it does not list come
    last.
    """
    if read.get("tree") != digest:
        return Selection(names)
    records = [report.from_json(each) for each in read["scenarios"]]
    order = {record.name: place for place, record in enumerate(records)}
    return Selection(
        names=sorted(names, key=lambda name: order.get(name, len(order))),
        seed=read.get("seed"),
        passed=[record for record in records if record.outcome == PASSED and record.name in names],
    )


def save(chosen: Selection, path: Path) -> None:
    """Write a selection to a file for load()."""
    records = [record.as_json() for record in chosen.passed]
    path.write_text(json.dumps({"names": list(chosen.names), "seed": chosen.seed, "passed": records}))


def load(path: Path) -> Selection:
    """The selection that save() wrote."""
    read = json.loads(path.read_text())
    return Selection(read["names"], read["seed"], [report.from_json(each) for each in read["passed"]])
