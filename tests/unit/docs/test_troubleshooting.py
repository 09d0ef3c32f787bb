# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/troubleshooting.md: an entry for each refusal that the code can make, and no entry for one that is gone."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable

import pytest

from tests.unit.docs import messages
from tests.unit.docs.markdown import TREE

PAGE = TREE / "docs" / "troubleshooting.md"
TABLE = re.compile(r"^\| message \| cause \| remedy \|\n\|[-|]+\|\n((?:\|.*\n)+)", re.MULTILINE)
ROW = re.compile(r"\| `(.+?)` \| (.+?) \| (.+?) \|")


def rows() -> list[tuple[str, str, str]]:
    """Message, cause and remedy of each entry."""
    found = []
    for table in TABLE.findall(PAGE.read_text()):
        for line in table.splitlines():
            row = ROW.fullmatch(line)
            assert row is not None, f"{PAGE.name}: not a message, a cause and a remedy: {line}"
            found.append((row.group(1), row.group(2), row.group(3)))
    return found


def nearest(key: str, others: Iterable[str]) -> str:
    """A remark on the entry that a message may have had before it was reworded."""
    found = difflib.get_close_matches(key, list(others), 1, 0.4)
    return f" (reworded? the page has: `{found[0]}`)" if found else ""


def test_each_refusal_has_an_entry_and_no_entry_is_stale() -> None:
    refusals = messages.messages()
    known = {key for key, _, _ in rows()}
    made = {message.key for message in refusals}
    stale = known - made
    problems = [
        f"no entry for `{message.key}`, made in {message.place}{nearest(message.key, stale)}"
        for message in refusals
        if message.key not in known
    ]
    problems += [f"stale entry: `{key}`" for key in sorted(stale)]
    assert problems == [], "change the keys in docs/troubleshooting.md:\n" + "\n".join(problems)


def test_no_message_has_two_entries() -> None:
    known = [key for key, _, _ in rows()]
    assert sorted(known) == sorted(set(known))


def test_refusals_are_found_in_each_package() -> None:
    """The search finds what it is meant to find: this would fail if a name of the code changed."""
    places = {message.place for message in messages.messages()}
    for part in (
        "hooks/qemu:",
        "vdsm_plugin/",
        "/rules/",
        "/preflight/",
        "/cards/",
        "/reservations/",
        "/cli/",
    ):
        assert any(part in place for place in places), part
    assert len(places) > 120


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("Refused('one thing')", {"one thing"}),
        ("Refused(f'VF {vf} of {pool} is gone', 'do this')", {"VF … of … is gone"}),
        ("Refused(f'{a}{b} is gone')", {"… is gone"}),
        ("Refused('one ' 'thing')", {"one thing"}),
        ("Refused(f'VF {vf} ' + 'is gone')", {"VF … is gone"}),
        ("Refused('no VF' if one else 'no VFs')", {"no VF", "no VFs"}),
        ("text = f'no VF {vf}'\n    raise Refused(text)", {"no VF …"}),
        ("text = error.problem\n    raise Refused(text)", {"…"}),
    ],
)
def test_a_sentence_is_reduced_to_its_constant_parts(code: str, expected: set[str]) -> None:
    tree = ast.parse(f"def f():\n    {code}\n")
    ((call, function),) = list(messages.calls(tree))
    assert messages.keys(call.args[0], function) == expected


def test_a_message_of_another_program_has_no_entry() -> None:
    assert not messages.is_telling("…")
    assert not messages.is_telling("…: …")
    assert messages.is_telling("no VF …")
