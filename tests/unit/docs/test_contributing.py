# SPDX-License-Identifier: GPL-2.0-or-later
"""CONTRIBUTING.md: its map of folders is the tree, and what it says to run is there."""

from __future__ import annotations

import re
from pathlib import Path

TREE = Path(__file__).parents[3]
DOCUMENT = TREE / "CONTRIBUTING.md"
#: what builds leave in a work tree: ours, and Fedora's macros
BUILT = {"build", "pyproject-wheeldir"}


def told() -> list[str]:
    """The first cell of each row of the tables of folders and packages."""
    return re.findall(r"^\| `([\w./-]+)` \|", DOCUMENT.read_text(), re.MULTILINE)


def folders(directory: Path) -> set[str]:
    """The folders in a directory that somebody wrote."""
    return {
        folder.name
        for folder in directory.iterdir()
        if folder.is_dir() and not folder.name.startswith((".", "__")) and folder.suffix != ".egg-info"
    } - BUILT


def test_each_folder_is_on_the_map() -> None:
    top = folders(TREE) - {"lib"} | {f"lib/{name}" for name in folders(TREE / "lib")}
    expected = {f"{name}/" for name in top | {".ci"}} | {f"tests/{name}/" for name in folders(TREE / "tests")}
    assert {name for name in told() if "/" in name} == expected


def test_each_package_is_on_the_map() -> None:
    packages = {package.parent.name for package in (TREE / "lib/vfmigrate").glob("*/__init__.py")}
    listed = [name for name in told() if "/" not in name]
    assert sorted(listed) == sorted(packages)


def test_the_packages_are_in_the_order_of_the_layers() -> None:
    listed = [name for name in told() if "/" not in name]
    contract = (TREE / ".importlinter").read_text().split("layers =\n", 1)[1].split("\n[", 1)[0]
    layers = [name for name in re.findall(r"[a-z]+", contract) if name in listed]
    assert listed == layers


def test_each_target_is_in_the_makefile() -> None:
    named = set(re.findall(r"`make ([a-z-]+)", DOCUMENT.read_text()))
    targets = set(re.findall(r"^([a-z-]+):", (TREE / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert named <= targets


def test_each_path_is_there() -> None:
    text = DOCUMENT.read_text()
    named = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`|\]\(([\w./-]+)\)", text)
    paths = {path for pair in named for path in pair if path}
    assert paths
    missing = {
        path for path in paths if not (TREE / path).exists() and not re.search(r"PACKAGE|MODULE", path)
    }
    assert missing == set()
