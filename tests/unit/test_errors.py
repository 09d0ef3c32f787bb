# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors: what they say, and how one is made from another."""

from __future__ import annotations

import ast
from pathlib import Path

from vfmigrate.errors import KINDS, HostError, Refused

LIBRARY = Path(__file__).parents[2] / "lib" / "vfmigrate"


class Busy(HostError):
    """Has a constructor of its own, as LibvirtError."""

    def __init__(self, code: int) -> None:
        super().__init__(f"it is busy ({code})")


def test_an_error_says_problem_and_remedy_in_one_line() -> None:
    assert str(HostError("it is\nbroken", "mend it")) == "it is broken; mend it"
    assert str(HostError("it is broken")) == "it is broken"


def test_an_error_made_from_another_has_its_kind() -> None:
    for kind in KINDS.values():
        error = kind("it is broken", "mend it")
        for other in (error.about("a"), error.with_more("b"), error.with_remedy("c")):
            assert (other.kind, other.exit_code) == (error.kind, error.exit_code)


def test_an_error_says_what_it_is_about_first_and_what_was_added_last() -> None:
    error = Refused("it is broken", "mend it")
    assert str(error.about("PF 0")) == "PF 0: it is broken; mend it"
    assert str(error.with_more("the guest runs")) == "it is broken; the guest runs; mend it"
    assert str(error.with_remedy("leave it")) == "it is broken; leave it"
    assert error.about("") is error
    assert error.with_more("") is error


def test_an_error_with_another_constructor_can_be_changed() -> None:
    for other in (Busy(38).about("a"), Busy(38).with_more("b"), Busy(38).with_remedy("c")):
        assert isinstance(other, HostError)
        assert "it is busy (38)" in str(other)


def of_another(tree: ast.AST) -> list[int]:
    """Lines that construct an object of the class of another object, whose parameters they cannot know."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Call)
        and isinstance(node.func.func, ast.Name)
        and node.func.func.id == "type"
    ]


def test_no_module_makes_an_error_by_the_class_of_another() -> None:
    found = {
        f"{path.relative_to(LIBRARY)}:{line}"
        for path in LIBRARY.rglob("*.py")
        for line in of_another(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == set(), "use the methods of VfmigrateError"
    assert of_another(ast.parse("raise type(error)(error.problem)")) == [1]
