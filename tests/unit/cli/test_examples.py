# SPDX-License-Identifier: GPL-2.0-or-later
"""What --help shows: it fits a screen, and its examples are command lines that the command takes."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest

from vfmigrate.cli import examples, main

VERBS = {examples.name(verb): verb for verb in examples.verbs(main.arguments())}
#: of a terminal in which manuals are read; 80 x 24 is what the shorter ones keep to
WIDTH, HEIGHT = 80, 50


@pytest.fixture
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))


def test_every_verb_has_examples() -> None:
    assert set(VERBS) <= set(examples.EXAMPLES)


@pytest.mark.parametrize("verb", VERBS)
def test_each_example_is_a_valid_command_line(verb: str) -> None:
    for line in examples.EXAMPLES[verb]:
        words = shlex.split(line.split(" | ")[0])
        assert words[0] == "vfmigrate"
        options = main.arguments().parse_args(words[1:])
        assert " ".join(words[1:]).startswith(verb)
        assert callable(options.run)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_loaded_alone_has_the_same_help(verb: str) -> None:
    alone = {examples.name(parser): parser for parser in examples.verbs(main.arguments(verb.split()))}
    assert alone[verb].format_help() == VERBS[verb].format_help()


def loaded_to_parse(*words: str) -> set[str]:
    """The modules that are loaded when the parser for these words is made."""
    script = f"import sys; from vfmigrate.cli import main; main.arguments({list(words)}); print(*sys.modules)"
    library = str(Path(main.__file__).parents[2])
    loaded = subprocess.run(
        [sys.executable, "-B", "-c", script],  # the library may lie in a package's build root
        env={"PYTHONPATH": library},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return set(loaded.split())


def test_verbs_that_only_ask_the_daemon_load_no_library() -> None:
    assert not {"libvirt", "lxml", "ovs", "pyroute2"} & loaded_to_parse("status")


def test_no_command_line_needs_libvirt_python() -> None:
    """Help, completion and manual pages are made where it is not installed."""
    loaded = loaded_to_parse()
    assert "vfmigrate.cli.migrate_verb" in loaded
    assert not {"libvirt", "pyroute2"} & loaded


@pytest.mark.usefixtures("_terminal")
@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_fits_a_screen(verb: Optional[str]) -> None:
    parser: argparse.ArgumentParser = main.arguments() if verb is None else VERBS[verb]
    lines = parser.format_help().splitlines()
    told = [
        line for line in lines if not line.startswith("  vfmigrate ")
    ]  # an example is one line to be copied
    assert max(map(len, told)) <= WIDTH
    assert len(lines) <= HEIGHT
    if verb is not None:
        assert "examples:" in lines
        assert any(line.strip().startswith("--json") for line in lines)
