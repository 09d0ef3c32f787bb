# SPDX-License-Identifier: GPL-2.0-or-later
"""Lifecycle events of domains, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

#: an assigned device was plugged into a running domain, or unplugged from it; the detail is its alias
PLUGGED_IN = "plugged-in"
UNPLUGGED = "unplugged"


@dataclass(frozen=True)
class LifecycleEvent:
    """Something happened to a domain: `started`, `resumed`, `stopped` …, and why (`booted`, `migrated` …)."""

    uuid: str
    name: str
    event: str
    detail: str
