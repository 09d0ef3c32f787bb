# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages: what the code says, and correct for groff."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.testbed.run import run

CLONE = Path(__file__).parents[3]
PAGES = ("vfmigrate.8", "vfmigrate.conf.5", "vfmigrated.8")


def test_the_pages_say_what_the_code_says() -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert run(sys.executable, CLONE / "man/write.py", "--check", env=environment) == ""


@pytest.mark.parametrize("page", PAGES)
def test_groff_has_nothing_to_say(page: str) -> None:
    run("sh", "-c", 'test -z "$(groff -man -Tutf8 -ww -z "$1" 2>&1)"', "sh", CLONE / "man" / page)
