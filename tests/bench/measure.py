# SPDX-License-Identifier: GPL-2.0-or-later
"""How speed is measured: candidates take turns in one run, and their medians are compared.

A ratio of two durations that are measured in turns is valid on a slow or busy machine too; milliseconds are not.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Callable, Optional, TypeVar

_Name = TypeVar("_Name", bound=Hashable)


@dataclass(frozen=True)
class Result:
    """A ratio, its upper limit (None: for information only) and what it is relative to."""

    name: str
    value: float
    aim: Optional[float]
    against: str

    @property
    def met(self) -> bool:
        """Whether the ratio is within its limit, if it has one."""
        return self.aim is None or self.value <= self.aim

    def as_json(self) -> dict[str, object]:
        """The result for the report."""
        return {**asdict(self), "value": round(self.value, 3)}


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
