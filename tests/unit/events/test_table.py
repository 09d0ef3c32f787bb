# SPDX-License-Identifier: GPL-2.0-or-later
"""The kinds of events: each that the code logs is in the table, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmigrate.daemon.hook_handler import ARRIVING, ENDING, REFUSING
from vfmigrate.events import table
from vfmigrate.events.kind import EventKind

LIBRARY = Path(table.__file__).parents[1]
#: names that a variable holds where they are logged
BY_VARIABLE = ARRIVING | ENDING | REFUSING | {"started", "reconnect"}
#: logs by `_log_claim(name, ...)`
HELPERS = {"event", "failed", "attempt", "_log_claim"}


def logged(text: str) -> Iterator[str]:
    """The names of events, and of kinds, in calls of the log in a module."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of_display = "display" in ast.unparse(node.func).lower()
        if node.func.attr in HELPERS and node.args and not of_display:
            yield from (
                each.value
                for each in ast.walk(node.args[0])
                if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value != "-"
            )


def in_code() -> dict[str, str]:
    """Where each event is logged, by the name of the event."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        inside = path.relative_to(LIBRARY)
        # the displays of the command have events of their own (docs/migrate.md), not in the log
        if inside.parts[0] not in ("cli", "evacuate"):
            found.update(dict.fromkeys(logged(path.read_text()), str(inside)))
    return found


def test_each_event_that_is_logged_has_a_kind() -> None:
    missing = {name: place for name, place in in_code().items() if table.find(name) is None}
    assert missing == {}


def test_each_kind_is_logged() -> None:
    special = {"log-lost", table.LIBVIRT_EVENT, table.REFUSED, table.FAILED, table.OVERTAKEN}
    stale = {kind.name for kind in table.KINDS} - set(in_code()) - BY_VARIABLE - special
    assert stale == set()


def test_a_planted_event_without_a_kind_is_found() -> None:
    assert list(logged('self._log.event("planted", "text")')) == ["planted"]


def test_names_and_message_ids_are_unique_and_well_formed() -> None:
    ids = [kind.message_id for kind in table.KINDS]
    assert len(set(ids)) == len(ids) == len({kind.name for kind in table.KINDS})
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


@pytest.mark.parametrize("kind", table.KINDS, ids=lambda kind: kind.name)
def test_texts_are_sentences(kind: EventKind) -> None:
    assert not kind.subject.endswith(".")
    assert kind.text.endswith(".")
    assert all(re.fullmatch("[a-z_]+", field) for field in kind.fields)
