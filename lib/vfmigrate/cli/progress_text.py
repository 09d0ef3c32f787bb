# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration's progress in words. Pure."""

from __future__ import annotations

from vfmigrate.migrate.convergence import mib
from vfmigrate.model.progress import Progress


def figures(now: Progress, allowed_ms: int) -> list[str]:
    """The figures of a moment, each in words."""
    found = [f"{mib(now.remaining)} of {mib(now.total)} memory left"]
    if now.disk_total:
        found.append(f"{mib(now.disk_remaining)} of {mib(now.disk_total)} disks left")
    if now.vf_state is not None:
        found.append(f"VF state {mib(now.vf_state)}")
    found.append(f"{mib(now.rate)}/s")
    if now.dirty_rate:
        found.append(f"guest dirties {mib(now.dirty_rate)}/s")
    if now.expected_downtime is not None:
        found.append(f"downtime about {now.expected_downtime} ms ({allowed_ms} allowed)")
    return found
