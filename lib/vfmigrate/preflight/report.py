# SPDX-License-Identifier: GPL-2.0-or-later
"""Judges whether a guest can migrate to another host. Pure: a snapshot in, results out.

The checks are in `checks`, one module for each subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vfmigrate.preflight.checks import device, guest, host, network, vf
from vfmigrate.preflight.snapshot import DESTINATION, PAIR, SOURCE, CheckResult, Snapshot
from vfmigrate.rules.findings import ERROR

SCHEMA = 1

ORDER = (SOURCE, DESTINATION, PAIR)


def judge(snapshot: Snapshot) -> list[CheckResult]:
    """The results of all checks, by side."""
    found = [
        *guest.results(snapshot),
        *host.results(snapshot, snapshot.source),
        *host.results(snapshot, snapshot.destination),
        *device.results(snapshot),
        *vf.results(snapshot),
        *network.results(snapshot),
    ]
    unique = list(dict.fromkeys(found))
    return sorted(unique, key=lambda result: ORDER.index(result.side))


def can_migrate(results: Sequence[CheckResult]) -> bool:
    """Whether no check found an error."""
    return not any(result.severity == ERROR for result in results)


def plain(snapshot: Snapshot, results: Sequence[CheckResult]) -> dict[str, Any]:
    """The results as plain values (docs/check.md)."""
    return {
        "schema": SCHEMA,
        "guest": snapshot.guest.domain.name,
        "uuid": snapshot.guest.domain.uuid,
        "source": snapshot.source.name,
        "destination": snapshot.destination.name,
        "can_go": can_migrate(results),
        "checks": [result.plain() for result in results],
    }
