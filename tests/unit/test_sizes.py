# SPDX-License-Identifier: GPL-2.0-or-later
"""The size of files: a module that grows past the limit is divided by what it owns."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("lib", "hooks", "vdsm_plugin", "tests", "man")

LIMIT = 420

#: Longer files that own one thing, with the reason why they are not divided, and their own limit.
LONGER = {
    "tests/unit/host/test_devlink.py": ("one message exchange after the other with one fake server", 480),
    "tests/unit/reservations/test_client_requests.py": ("the requests of one class, which share a rig", 450),
}


def lines(path: Path) -> int:
    """How many lines a file has."""
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_too_long() -> None:
    files = {
        str(path.relative_to(ROOT)): lines(path) for top in SOURCES for path in (ROOT / top).rglob("*.py")
    }
    assert files
    long = {name: count for name, count in files.items() if count > LONGER.get(name, ("", LIMIT))[1]}
    assert long == {}, f"a file has at most {LIMIT} lines: divide it by what it owns"


def test_each_exception_is_needed() -> None:
    assert [name for name in LONGER if lines(ROOT / name) <= LIMIT] == []
