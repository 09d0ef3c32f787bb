# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges whether a guest can move to another host, from all that can be known before. Pure: a prospect in, lines out.

The judgement is in the modules beside it, one for each kind of thing: `check_host`, `check_vf`, `check_guest` and
`check_way`. None of them changes anything anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vfmigrate.preflight.checks import guest, host, network, vf
from vfmigrate.preflight.snapshot import DESTINATION, PAIR, SOURCE, Line, Prospect
from vfmigrate.rules.findings import ERROR

SCHEMA = 1

ORDER = (SOURCE, DESTINATION, PAIR)


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
    return sorted(unique, key=lambda line: ORDER.index(line.side))


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
