# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of promises in docs/reliability.md: each names a test or a scenario that there is."""

from __future__ import annotations

import re
from pathlib import Path

TREE = Path(__file__).parents[3]
DOCUMENT = TREE / "docs" / "reliability.md"
SCENARIOS = TREE / "tests" / "testbed" / "scenarios"


def rows() -> list[list[str]]:
    lines = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[2] != "test"]


def test_each_promise_has_a_test() -> None:
    assert len(rows()) > 40
    for promise in rows():
        assert len(promise) == 3
        assert re.search(r"`tests/\S+\.py::\w+`|scenarios? `[a-z-]+`", promise[2]), promise


def test_each_test_is_there() -> None:
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", DOCUMENT.read_text())
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (TREE / file).exists() or f"def {name}(" not in (TREE / file).read_text()
    ]
    assert missing == []


def test_each_scenario_is_there() -> None:
    names = {
        name
        for module in SCENARIOS.glob("*.py")
        for name in re.findall(r'^NAME = "(.*)"$', module.read_text(), re.MULTILINE)
    }
    told = {name for row in rows() for name in re.findall(r"scenario `([a-z-]+)`", row[2])}
    assert told
    assert told - names == set()
