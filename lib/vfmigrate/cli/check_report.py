# SPDX-License-Identifier: GPL-2.0-or-later
"""The preflight checks as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vfmigrate.cli.tables import wrapped
from vfmigrate.preflight.report import ORDER
from vfmigrate.preflight.snapshot import DESTINATION, OK, PAIR, SOURCE, Line, Prospect
from vfmigrate.rules.findings import ERROR, WARNING


def listed(prospect: Prospect, lines: Sequence[Line]) -> Iterator[str]:
    """For a terminal of 80 columns."""
    titles = {
        SOURCE: f"source {prospect.source.name}",
        DESTINATION: f"destination {prospect.destination.name}",
        PAIR: "both",
    }
    for side in ORDER:
        mine = [line for line in lines if line.side == side]
        if mine:
            yield f"{titles[side]}:"
        for line in mine:
            text = f"{line.text}; {line.remedy}" if line.remedy else line.text
            yield from wrapped(f"{line.severity:<7}  {text}", "  ", "           ")
            yield from (f"           {each}" for each in line.detail.splitlines())
    yield from wrapped(summary(prospect, lines))


def summary(prospect: Prospect, lines: Sequence[Line]) -> str:
    """The verdict in one line."""
    name, there = prospect.guest.domain.name, prospect.destination.name
    errors = sum(line.severity == ERROR for line in lines)
    warnings = sum(line.severity == WARNING for line in lines)
    fine = sum(line.severity == OK for line in lines)
    counts = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}, {fine} ok"
    return f"guest '{name}' {'cannot' if errors else 'can'} go to {there}: {counts}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
