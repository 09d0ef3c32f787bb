# SPDX-License-Identifier: GPL-2.0-or-later
"""Polling: returns what appears, and gives up after its time with a last look. It is the library's only such loop."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from vfmigrate.polling import poll, until

LIBRARY = Path(__file__).parents[2] / "lib" / "vfmigrate"


def test_a_present_value_is_returned_at_once() -> None:
    assert poll(lambda: "there", 0.0, 60.0) == "there"


def test_a_value_that_appears_is_returned() -> None:
    answers: Iterator[Optional[int]] = iter((None, None, 7))
    assert poll(lambda: next(answers), 60.0, 0.0) == 7


def test_a_value_that_does_not_appear_is_none() -> None:
    looks = []
    assert poll(lambda: looks.append(1), 0.01, 0.001) is None
    assert len(looks) > 1


def test_pauses_grow_up_to_the_longest() -> None:
    pauses: list[float] = []
    answers: Iterator[Optional[int]] = iter((None, None, None, None, 7))
    assert poll(lambda: next(answers), 60.0, 1.0, longest=3.0, pause=pauses.append) == 7
    assert pauses == [1.0, 2.0, 3.0, 3.0]


def test_a_pause_can_end_the_wait() -> None:
    stop = threading.Event()
    stop.set()
    looks = []
    assert poll(lambda: looks.append(1), 60.0, 60.0, pause=stop.wait) is None
    assert len(looks) == 1


def test_until_returns_whether_the_condition_held() -> None:
    answers = iter((False, True))
    assert until(lambda: next(answers), 60.0, 0.0)
    assert not until(lambda: False, 0.01, 0.001)


def hand_made(tree: ast.AST) -> list[int]:
    """The lines of while loops that sleep, whatever the function is called through."""
    found = []
    for loop in (node for node in ast.walk(tree) if isinstance(node, ast.While)):
        for node in ast.walk(loop):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name.rpartition(".")[2].strip("_") == "sleep":
                    found.append(loop.lineno)
    return found


def test_no_module_has_a_polling_loop_of_its_own() -> None:
    loops = {
        f"{file.relative_to(LIBRARY)}:{line}"
        for file in LIBRARY.rglob("*.py")
        for line in hand_made(ast.parse(file.read_text()))
    }
    assert loops == set(), "wait with polling.poll() or until()"


def test_a_planted_polling_loop_is_found() -> None:
    for call in ("time.sleep(1)", "sleep(1)", "self._sleep(1)"):
        assert hand_made(ast.parse(f"while True:\n    if waits:\n        {call}")) == [1]
    assert hand_made(ast.parse("while True:\n    stop.wait(1)")) == []
