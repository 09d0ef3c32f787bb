# SPDX-License-Identifier: GPL-2.0-or-later
"""What the documents have a reader type: command lines that the programs accept, make targets and configurations."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.docs.markdown import TREE, code_blocks, documents
from vfmigrate.cli import main
from vfmigrate.config import configuration

#: pages of decisions quote what was so at their time
PAGES = [page for page in documents() if page.parent.name != "decisions" and page.name != "CHANGELOG.md"]
PROMPT = re.compile(r"^(?:\[root@\S+ ~\]# |# |\$ )")


def commands(program: str) -> Iterator[tuple[str, str]]:
    """Page and line of each call of a program that stands at the beginning of a line of code."""
    for page in PAGES:
        for block in code_blocks(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                text = PROMPT.sub("", line.strip()).split("#")[0].strip()
                if text.split(" ")[0] == program and "..." not in text:
                    yield str(page.relative_to(TREE)), text


VFMIGRATE = sorted(set(commands("vfmigrate")))


@pytest.mark.parametrize(("page", "line"), VFMIGRATE, ids=[f"{page}: {line}" for page, line in VFMIGRATE])
def test_each_command_in_the_documents_is_valid(page: str, line: str) -> None:
    words = shlex.split(line.split(" | ", maxsplit=1)[0])
    options = main.arguments(words[1:]).parse_args(words[1:])
    assert isinstance(options, argparse.Namespace), page


def test_the_documents_have_commands() -> None:
    assert len(VFMIGRATE) > 20
    assert {page for page, _ in VFMIGRATE} >= {"README.md", "docs/check.md", "docs/migrate.md"}


def test_each_make_target_exists() -> None:
    makefile = (TREE / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set()
    for page in PAGES:
        text = page.read_text()
        named |= set(re.findall(r"`make ([a-z][a-z-]*)", text))
        for block in code_blocks(text):
            named |= set(re.findall(r"^\s*make ([a-z][a-z-]*)", block, re.MULTILINE))
    assert named
    assert named - targets == set()


def test_the_configurations_are_valid(tmp_path: Path) -> None:
    """Each block with a section of a pool is one that the daemon reads."""
    found = 0
    for page in PAGES:
        for block in code_blocks(page.read_text()):
            section = re.search(r"^\s*\[pool \w+\]\n(?:\s*\w+ = .*\n)+", block, re.MULTILINE)
            if section is None:
                continue
            file = tmp_path / "vfmigrate.conf"
            file.write_text(re.sub(r"^\s+", "", section.group(), flags=re.MULTILINE))
            assert configuration.load(file).pools, page
            found += 1
    assert found
