# SPDX-License-Identifier: GPL-2.0-or-later
"""The cells of the matrix: which releases the two hosts run, and which tests run on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.testbed.releases import BOOKWORM, BULLSEYE, FORKY, TRIXIE, TRIXIE_BACKPORTS, Release

# What libvirt does, and what vfmigrate needs Open vSwitch and devlink for.
_FACTS = ("test_hosts", "test_ovs", "test_ovs_bridge", "test_devlink_encoding")
_MIGRATION = ("test_migration", "test_forms", "test_attach", "test_refusal")
# Between hosts that differ, in each direction.
_BETWEEN = ("test_migration", "test_refusal")


@dataclass(frozen=True)
class Run:
    """One run of pytest: the releases of host A and host B, and the modules of tests/integration."""

    hosts: tuple[Release, Release]
    modules: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A cell of the matrix; the tests of the library floor have no hosts."""

    name: str
    releases: Sequence[Release]
    runs: Sequence[Run] = ()


def _alike(release: Release) -> Cell:
    return Cell(release.name, [release], [Run((release, release), (*_FACTS, *_MIGRATION))])


def _neighbours(older: Release, newer: Release) -> Cell:
    both = [Run((older, newer), _BETWEEN), Run((newer, older), _BETWEEN)]
    return Cell(f"{older.name}-{newer.name}", [older, newer], both)


FLOOR = Cell(BULLSEYE.name, [BULLSEYE])
CELLS = (
    FLOOR,
    _alike(BOOKWORM),
    _neighbours(BOOKWORM, TRIXIE),
    _alike(TRIXIE),
    _neighbours(TRIXIE, TRIXIE_BACKPORTS),
    _alike(TRIXIE_BACKPORTS),
    _neighbours(TRIXIE_BACKPORTS, FORKY),
    _alike(FORKY),
)


def in_turn(count: int) -> Cell:
    """One of the cells, another one for the next `count`; not the one that `make test` runs on anyway."""
    rest = [cell for cell in CELLS if cell.releases != [TRIXIE]]
    return rest[count % len(rest)]
