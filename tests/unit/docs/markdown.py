# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests of the documents read of Markdown: headings, their anchors, and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

TREE = Path(__file__).parents[3]

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)


def documents() -> list[Path]:
    """README, its neighbours and all pages below docs."""
    return [*sorted(TREE.glob("*.md")), *sorted((TREE / "docs").rglob("*.md"))]


def prose(text: str) -> str:
    """The text without what stands in code blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> Iterator[str]:
    """The targets of the links of a page."""
    for found in _LINK.finditer(_CODE.sub("`code`", prose(text))):
        yield found.group(1)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (unique := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(unique)
    return found


def code_blocks(text: str) -> list[str]:
    """The blocks of code: fenced ones, and those that are indented by four columns."""
    fenced = [block.group().split("\n", 1)[1] for block in _FENCE.finditer(text)]
    indented = re.findall(r"(?:^ {4}\S.*\n)+", _FENCE.sub("", text), re.MULTILINE)
    return [*fenced, *indented]
