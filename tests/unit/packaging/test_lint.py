# SPDX-License-Identifier: GPL-2.0-or-later
"""`make lint` and pre-commit run the same checks, and news fragments have the types that are configured."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

TREE = Path(__file__).parents[3]


def checks() -> list[str]:
    listed = subprocess.run([TREE / "tests/lint.sh", "--list"], capture_output=True, text=True, check=True)
    return listed.stdout.split()


def test_pre_commit_runs_what_make_lint_runs() -> None:
    hooks = re.findall(
        r"^ +- id: (\S+)\n +name: .+\n +entry: (.+)\n +language: system\n +pass_filenames: false\n"
        r" +always_run: true\n",
        (TREE / ".pre-commit-config.yaml").read_text(),
        re.MULTILINE,
    )
    assert hooks == [(name, f"tests/lint.sh {name}") for name in checks()]


def test_make_lint_runs_each_check() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (TREE / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    assert recipe.group(1) == "\ttests/lint.sh\n"


def test_an_unknown_check_is_an_error() -> None:
    refused = subprocess.run(
        [TREE / "tests/lint.sh", "nonsense"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "there is no check 'nonsense'" in refused.stderr


def test_news_fragments_have_known_types() -> None:
    settings = (TREE / "pyproject.toml").read_text()
    types = "|".join(
        re.findall(r'^\[\[tool\.towncrier\.type\]\]\ndirectory = "(\w+)"', settings, re.MULTILINE)
    )
    fragments = [file.name for file in (TREE / "newsfragments").iterdir() if file.suffix == ".md"]
    strange = [name for name in fragments if not re.fullmatch(rf"(\+[\w-]+|\d+)\.({types})\.md", name)]
    assert strange == []


def test_a_news_fragment_is_a_short_text() -> None:
    for file in (TREE / "newsfragments").glob("*.md"):
        text = file.read_text()
        assert re.fullmatch(r"[A-Z`].{20,600}[.)]\n", text), f"{file.name}: one or two sentences on one line"


def test_make_help_fits_a_terminal() -> None:
    shown = subprocess.run(
        ["make", "-s", "-C", TREE, "help"], capture_output=True, text=True, check=True
    ).stdout
    assert "  lint " in shown
    assert [line for line in shown.splitlines() if len(line) > 80] == []
