# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges whether a guest can move to another host, from all that can be known before. Pure: a prospect in, lines out.

The judgement is in the modules beside it, one for each kind of thing: `check_host`, `check_vf`, `check_guest` and
`check_way`. None of them changes anything anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vfmigrate.cli.tables import wrapped
from vfmigrate.preflight.checks import guest, host, network, vf
from vfmigrate.preflight.snapshot import DESTINATION, OK, PAIR, SOURCE, Line, Prospect
from vfmigrate.rules.findings import ERROR, WARNING

SCHEMA = 1

_ORDER = (SOURCE, DESTINATION, PAIR)


def judge(prospect: Prospect) -> list[Line]:
    """Everything that was looked at, in the order in which it is to be read: by side."""
    found = [
        *guest.lines(prospect),
        *host.lines(prospect, prospect.source),
        *host.lines(prospect, prospect.destination),
        *vf.lines(prospect),
        *network.lines(prospect),
    ]
    unique = list(dict.fromkeys(found))
    return sorted(unique, key=lambda line: _ORDER.index(line.side))


def can_go(lines: Sequence[Line]) -> bool:
    """Whether nothing stands against it."""
    return not any(line.severity == ERROR for line in lines)


def plain(prospect: Prospect, lines: Sequence[Line]) -> dict[str, Any]:
    """For programs (docs/check.md)."""
    return {
        "schema": SCHEMA,
        "guest": prospect.guest.domain.name,
        "uuid": prospect.guest.domain.uuid,
        "source": prospect.source.name,
        "destination": prospect.destination.name,
        "can_go": can_go(lines),
        "checks": [line.plain() for line in lines],
    }


def listed(prospect: Prospect, lines: Sequence[Line]) -> Iterator[str]:
    """For a terminal of 80 columns."""
    titles = {
        SOURCE: f"source {prospect.source.name}",
        DESTINATION: f"destination {prospect.destination.name}",
        PAIR: "both",
    }
    for side in _ORDER:
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
