# SPDX-License-Identifier: GPL-2.0-or-later
"""The manual pages: they match the code, groff accepts them, and they name what an administrator can type and get."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed.run import run
from vfmigrate.cli import main
from vfmigrate.daemon import options
from vfmigrate.errors import KINDS, ConfigError
from vfmigrate_guest import cli as guest

CLONE = Path(__file__).parents[3]
PAGES = ("vfmigrate.8", "vfmigrate.conf.5", "vfmigrated.8", "vfmigrate-guest.8")
PROGRAMS = (main.arguments(), options.arguments(), guest.arguments())


def test_the_pages_match_the_code() -> None:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert run(sys.executable, CLONE / "man/write.py", "--check", env=environment) == ""


@pytest.mark.parametrize("page", PAGES)
def test_groff_has_no_warnings(page: str) -> None:
    run("sh", "-c", 'test -z "$(groff -man -Tutf8 -ww -z "$1" 2>&1)"', "sh", CLONE / "man" / page)


def values() -> Iterator[tuple[str, argparse.Action]]:
    """Each option and argument that takes a value, with the parser that it belongs to."""
    parsers: list[argparse.ArgumentParser] = list(PROGRAMS)
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            elif action.nargs != 0:
                yield parser.prog, action


def test_values_are_in_capitals_or_choices() -> None:
    taken = list(values())
    assert len(taken) > 40
    for program, action in taken:
        name = action.metavar or action.dest.upper()
        assert action.choices or re.fullmatch(r"(ua-)?[A-Z/]+", str(name)), f"{program}: {action}"


def statuses(page: str) -> set[int]:
    section = (CLONE / "man" / page).read_text().split(".SH EXIT STATUS\n")[1].split(".SH")[0]
    return set(map(int, re.findall(r"^\.B (\d+)$", section, re.MULTILINE)))


def test_each_program_has_its_own_exit_statuses() -> None:
    kinds = {kind.exit_code for kind in KINDS.values()}
    assert statuses("vfmigrate.8") == {0} | kinds - {ConfigError.exit_code}
    assert statuses("vfmigrated.8") == {0, 2, 69, 78}
    assert statuses("vfmigrate-guest.8") == {0, 1, 2}


def test_the_guest_command_exits_as_its_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert guest.main(["bond", "--dry-run", "--vf", "one"]) == 1
    with pytest.raises(SystemExit) as usage:
        guest.main(["nonsense"])
    assert usage.value.code == 2
    assert "only one of --vf and --standby is given" in capsys.readouterr().err
