# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/decisions: each file follows the template, the numbers have no gap, and the index lists every decision."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

DECISIONS = Path(__file__).parents[3] / "docs" / "decisions"
FILES = sorted(DECISIONS.glob("[0-9]*.md"))
SECTIONS = ["Context", "Decision", "Alternatives", "Consequences"]
STATUS = re.compile(r"accepted|superseded by \d{4}")


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def field(text: str, name: str) -> str:
    found = re.search(rf"^- {name}: (.*)$", text, re.MULTILINE)
    assert found is not None, f"no line '- {name}: …'"
    return found.group(1)


def title(text: str) -> str:
    return text.splitlines()[1]


def test_the_numbers_have_no_gap() -> None:
    assert [int(file.name[:4]) for file in FILES] == list(range(1, len(FILES) + 1))
    assert len(FILES) >= 42


def test_the_dates_ascend() -> None:
    dates = [date.fromisoformat(field(file.read_text(), "Date")) for file in FILES]
    assert dates == sorted(dates)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_decision_follows_the_template(file: Path) -> None:
    text = file.read_text()
    assert re.fullmatch(r"\d{4}-[a-z0-9-]+\.md", file.name)
    assert title(text).startswith(f"# {file.name[:4]}. ")
    assert STATUS.fullmatch(field(text, "Status"))
    assert headings(text) == SECTIONS
    for section in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]:
        assert section.strip()
    assert re.search(r"^- \*\*.+?\*\*: \S", text, re.MULTILINE), "no alternative"


def test_the_template_has_the_sections() -> None:
    assert headings((DECISIONS / "template.md").read_text()) == SECTIONS


def test_the_index_lists_each_decision() -> None:
    rows = re.findall(
        r"^\| \[(\d{4})\]\((\S+)\) \| (\S+) \| (.+) \| (.+) \|$",
        (DECISIONS / "index.md").read_text(),
        re.MULTILINE,
    )
    expected = []
    for file in FILES:
        text = file.read_text()
        name = title(text).removeprefix(f"# {file.name[:4]}. ")
        expected.append((file.name[:4], file.name, field(text, "Date"), name, field(text, "Status")))
    assert rows == expected
