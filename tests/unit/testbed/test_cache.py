# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache: keys, building once, never half an entry."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.testbed import cache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vfmigrate"


def test_a_key_tells_parts_apart_and_ignores_their_order() -> None:
    assert cache.key({"a": "1", "b": ["x", 2]}) == cache.key({"b": ["x", 2], "a": "1"})
    assert cache.key({"a": "1"}) != cache.key({"a": "2"})
    assert cache.key(["a", "b"]) != cache.key(["ab"])


def test_an_entry_is_built_once_for_each_key(home: Path) -> None:
    built: list[Path] = []

    def build(path: Path) -> None:
        built.append(path)
        path.write_text("made")

    first = cache.entry("thing", "1", build)
    assert cache.entry("thing", "1", build) == first
    assert cache.entry("thing", "2", build) != first
    assert len(built) == 2
    assert first.parent == home
    assert first.read_text() == "made"


def test_a_build_that_fails_leaves_no_entry() -> None:
    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        cache.entry("thing", "1", fail)

    def succeed(path: Path) -> None:
        path.write_text("whole")

    assert cache.entry("thing", "1", succeed).read_text() == "whole"


def test_entries_nobody_used_for_long_go_when_a_new_one_comes() -> None:
    def build(path: Path) -> None:
        path.mkdir()

    stale, used, other = (
        cache.entry(*each, build) for each in (("thing", "1"), ("thing", "2"), ("thing-x", "1"))
    )
    long_ago = time.time() - (cache.UNUSED_DAYS + 1) * 86400
    for path in (stale, other):
        os.utime(path.with_name(path.name + ".used"), (long_ago, long_ago))
    new = cache.entry("thing", "3", build)
    assert [path.exists() for path in (stale, used, other, new)] == [False, True, True, True]


def test_a_digest_tells_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a").write_text("x")
    before = cache.digest(folder)
    assert cache.digest(folder) == before
    (folder / "a").write_text("y")
    changed = cache.digest(folder)
    (folder / "a").rename(folder / "b")
    assert len({before, changed, cache.digest(folder)}) == 3


def test_a_lock_that_is_kept_keeps_others_out() -> None:
    assert cache.try_lock("run")
    assert not cache.try_lock("run")
