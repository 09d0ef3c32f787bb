# SPDX-License-Identifier: GPL-2.0-or-later
"""Links between the documents: file and heading exist, every page is in the index, and what is linked is packaged."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.unit.docs.markdown import TREE, anchors, documents, links

SPEC = TREE / "rpm" / "vfmigrate.spec"


def relative_links(page: Path) -> list[tuple[str, Path, str]]:
    """Link as written, file and anchor of each link within the project."""
    found = []
    for link in links(page.read_text()):
        if re.match(r"[a-z+]+:", link):
            continue
        path, _, anchor = link.partition("#")
        found.append((link, (page.parent / unquote(path)).resolve() if path else page.resolve(), anchor))
    return found


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(TREE)))
def test_each_link_resolves(page: Path) -> None:
    broken = [
        link
        for link, target, anchor in relative_links(page)
        if not target.exists()
        or (anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text())))
    ]
    assert broken == []


def test_the_index_leads_to_each_page() -> None:
    """Directly, or by the index of a folder."""
    seen: set[Path] = set()
    waiting = [(TREE / "docs" / "index.md").resolve()]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        if page.parent == (TREE / "docs").resolve() and page.name != "index.md":
            continue
        waiting.extend(target for _, target, _ in relative_links(page))
    pages = {page.resolve() for page in (TREE / "docs").rglob("*.md")}
    assert pages - seen == set()


def test_each_linked_document_is_packaged() -> None:
    """The packages hold README, and so must hold what it links to, at the same relative place."""
    spec = SPEC.read_text()
    packaged = {word for line in re.findall(r"^%doc (.*)$", spec, re.MULTILINE) for word in line.split()}
    linked = {
        str(target.relative_to(TREE))
        for page in documents()
        if page == TREE / "README.md" or page.is_relative_to(TREE / "docs")
        for _, target, _ in relative_links(page)
    }
    assert {name for name in linked if name.split("/")[0] not in packaged} == set()
