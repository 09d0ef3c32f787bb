# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents are in plain technical English: none of the turns of phrase that a reader has to translate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.docs.markdown import TREE, documents, prose

PAGES = [page for page in documents() if page.name != "CHANGELOG.md"]
PHRASES = (
    r"tells?",
    r"told",
    r"anew",
    r"as ever",
    r"becomes? of",
    r"cross(?:es|ed|ing)?",
    r"looked whether",
    r"none of (?:our|its) business",
    r"so many",
    r"stands? against",
    r"to and fro",
)
BANNED = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TREE)))
def test_a_page_uses_plain_words(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", prose(page.read_text()))
    assert sorted(set(BANNED.findall(text))) == []
