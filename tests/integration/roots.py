# SPDX-License-Identifier: GPL-2.0-or-later
"""Which releases of Debian the namespace hosts run.

VFMIGRATE_TEST_ROOT=forky makes both hosts of that release, VFMIGRATE_TEST_ROOT=bookworm,trixie host A of the first and
host B of the second; `make matrix` sets it. Tests that start hosts of a release of their own do not heed it. A path in
place of names is that of a root, for tests that need its programs only.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from tests.testbed.releases import BY_AGE, TRIXIE, Release
from tests.testbed.root import host_root

VARIABLE = "VFMIGRATE_TEST_ROOT"


@functools.cache
def releases() -> tuple[Release, Release]:
    """The releases of host A and host B."""
    known = {release.name: release for release in BY_AGE}
    names = os.environ.get(VARIABLE, TRIXIE.name).split(",")
    if names[0].startswith("/"):
        return TRIXIE, TRIXIE
    if len(names) > 2 or not known.keys() >= set(names):
        raise ValueError(f"{VARIABLE}: one or two of {', '.join(known)}, not {','.join(names)}")
    return known[names[0]], known[names[-1]]


def first_root() -> Path:
    """The root of host A."""
    path = os.environ.get(VARIABLE, "")
    return Path(path) if path.startswith("/") else host_root(releases()[0])


def machine(*of: Release) -> str:
    """The newest machine type that the QEMUs of these releases have."""
    return min(of, key=BY_AGE.index).machine
