# SPDX-License-Identifier: GPL-2.0-or-later
"""A host in memory that counts the questions that it is asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

from tests.fakes.memory_host import MemoryHost


class _Counted:
    """Passes on what is asked of another object, and counts it."""

    def __init__(self, asked: Any, name: str, counts: Counter[str]) -> None:
        self._asked = asked
        self._name = name
        self._counts = counts

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._asked, name)
        if not callable(found):
            return found

        def count(*arguments: Any, **named: Any) -> Any:
            self._counts[f"{self._name}.{name}"] += 1
            return found(*arguments, **named)

        return count


def counted(memory: MemoryHost) -> Counter[str]:
    """Count what `memory.host` is asked from now on, by `door.question`."""
    counts: Counter[str] = Counter()
    doors = {
        name: _Counted(getattr(memory.host, name), name, counts)
        for name in ("sysfs", "devlink", "links", "ovs")
    }
    memory.host = replace(memory.host, **cast("Any", doors))
    return counts
