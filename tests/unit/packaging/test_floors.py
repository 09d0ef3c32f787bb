# SPDX-License-Identifier: GPL-2.0-or-later
"""The oldest libraries that the packages accept are those that `make floors` tries."""

from __future__ import annotations

import re
from pathlib import Path

CLONE = Path(__file__).parents[3]
PACKAGES = {"lxml": "python3-lxml", "pyroute2": "python3-pyroute2", "ovs": "python3-openvswitch"}


def test_the_packages_require_versions_that_were_tested() -> None:
    spec = (CLONE / "rpm/vfmigrate.spec").read_text()
    accepted = dict(re.findall(r"^Requires: .*?(python3-[a-z0-9]+) >= ([0-9.]+)", spec, re.MULTILINE))
    tried = dict(re.findall(r"^(\w+)==([0-9.]+)$", (CLONE / "tests/floors.txt").read_text(), re.MULTILINE))
    for name, package in PACKAGES.items():
        # 3.1 accepts 3.1.0, which PyPI does not have; 3.1.2 is its first
        assert f"{tried[name]}.".startswith(f"{accepted[package]}."), package
