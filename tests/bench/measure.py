# SPDX-License-Identifier: GPL-2.0-or-later
"""How speed is measured: candidates take turns in one run, and their medians are compared.

A ratio of two durations that are measured in turns is valid on a slow or busy machine too; milliseconds are not. Every
figure is measured in several runs: its value is their median, and their spread says how far it can be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Callable, Optional, TypeVar

#: how often each figure is measured
RUNS = 5

_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True)
class Result:
    """A figure of several runs, the upper limit of their median (None: for information only), and what it is.

    Without a `unit` it is a ratio; `against` says what it is relative to, or how it was measured.
    """

    name: str
    runs: Sequence[float]
    aim: Optional[float]
    against: str
    unit: str = ""

    @property
    def value(self) -> float:
        """The median of the runs."""
        return median(self.runs)

    @property
    def met(self) -> bool:
        """Whether the value is within its limit, if it has one."""
        return self.aim is None or self.value <= self.aim

    @property
    def spread(self) -> str:
        """The smallest and the largest run."""
        return f"{min(self.runs):.2f}-{max(self.runs):.2f}"

    def as_json(self) -> dict[str, object]:
        """The result for the report."""
        return {
            "name": self.name,
            "value": round(self.value, 3),
            "unit": self.unit or "ratio",
            "runs": [round(run, 3) for run in self.runs],
            "aim": self.aim,
            "against": self.against,
        }


@dataclass(frozen=True)
class Turn:
    """What is measured, and what restores the state afterwards, which is not measured."""

    run: Callable[[], object]
    reset: Callable[[], object] = lambda: None


def medians(turns: Mapping[_Name, Turn], rounds: int, *, warm_up: int = 3) -> dict[_Name, float]:
    """The median duration of each turn in seconds, over `rounds` rounds after `warm_up` uncounted ones.

    Every other round runs in reverse, so that no turn always follows the same one.
    """
    times: dict[_Name, list[float]] = {name: [] for name in turns}
    for number in range(warm_up + rounds):
        order = list(turns)[:: 1 if number % 2 else -1]
        for name in order:
            begun = time.perf_counter()
            turns[name].run()
            times[name].append(time.perf_counter() - begun)
            turns[name].reset()
    return {name: median(each[warm_up:]) for name, each in times.items()}


def repeated(turns: Mapping[_Name, Turn], rounds: int) -> list[dict[_Name, float]]:
    """The `medians` of each of RUNS runs."""
    return [medians(turns, rounds) for _ in range(RUNS)]


def ratios(runs: Sequence[Mapping[_Name, float]], one: _Name, other: _Name) -> list[float]:
    """How long `one` took relative to `other`, in each run."""
    return [times[one] / times[other] for times in runs]


def typical(runs: Sequence[Mapping[_Name, float]], one: _Name) -> float:
    """How long `one` took in seconds: the median of the runs."""
    return median(times[one] for times in runs)
