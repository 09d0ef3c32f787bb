# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/how-to-add.md and docs/architecture.md name files of the tree: each exists, except those marked as new."""

from __future__ import annotations

import re

import pytest

from tests.unit.docs.markdown import TREE

GUIDE = TREE / "docs" / "how-to-add.md"
ARCHITECTURE = TREE / "docs" / "architecture.md"
FOLDERS = "lib|hooks|tests|udev|docs|man|completion|rpm|systemd|vdsm_plugin"
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
ROW = re.compile(rf"^\| `((?:{FOLDERS})/[\w./-]+)` \| (read|change|new) \| (.+) \|$", re.MULTILINE)
SUBJECTS = ("A card vendor", "A preflight check", "A verb", "An announce method", "A strategy")


def section(title: str) -> str:
    """The text below a heading of the guide."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"no section '{title}'"
    return found.group(1)


def new_files() -> set[str]:
    return {path for path, mark, _ in ROW.findall(GUIDE.read_text()) if mark == "new"}


def test_each_file_exists_unless_it_is_new() -> None:
    named = set(PATH.findall(GUIDE.read_text())) | set(PATH.findall(ARCHITECTURE.read_text()))
    assert len(named) > 30
    missing = {path for path in named - new_files() if not (TREE / path).exists()}
    assert missing == set()


def test_new_files_have_a_place_and_do_not_exist() -> None:
    assert new_files()
    for path in new_files():
        assert (TREE / path).parent.is_dir(), path
        assert not (TREE / path).exists(), path


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_subject_lists_its_files(subject: str) -> None:
    rows = ROW.findall(section(subject))
    marks = {mark for _, mark, _ in rows}
    assert "read" in marks
    assert marks & {"change", "new"}
    assert any(path.startswith("tests/") for path, _, _ in rows), "which tests?"


def written(subject: str) -> list[str]:
    """The files of the library that an extension adds or changes."""
    return [
        path for path, mark, _ in ROW.findall(section(subject)) if mark != "read" and path.startswith("lib/")
    ]


def test_a_vendor_is_one_file_of_the_library() -> None:
    assert written("A card vendor") == ["lib/vfmigrate/cards/NAME.py"]


def test_an_announce_method_is_one_file_of_the_library() -> None:
    assert written("An announce method") == ["lib/vfmigrate/announce/methods/NAME.py"]


def test_a_check_is_one_file_of_the_library() -> None:
    (file,) = written("A preflight check")
    assert file.startswith("lib/vfmigrate/preflight/checks/")
