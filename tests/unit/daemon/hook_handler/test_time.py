# SPDX-License-Identifier: GPL-2.0-or-later
"""How long handling an event may take: less than the hook waits, and what the hook has waited already counts."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Optional

import pytest

from vfmigrate.daemon.hook_handler import REFUSING, seconds
from vfmigrate.daemon.watchdog import EVENT_SECONDS, REQUEST_SECONDS
from vfmigrate.reservations.cleanup import CLEAN_UP_SECONDS

HOOK = Path(__file__).parents[4] / "hooks" / "qemu"


def constant(name: str) -> float:
    """A constant of the hook, which imports nothing and is not imported."""
    for node in ast.parse(HOOK.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            value = ast.literal_eval(node.value)
            assert isinstance(value, (int, float))
            return value
    raise AssertionError(f"hooks/qemu has no {name}")


def test_the_answer_is_there_before_the_hook_gives_up() -> None:
    assert constant("PATIENCE") > EVENT_SECONDS + CLEAN_UP_SECONDS
    assert REQUEST_SECONDS < 60.0  # protocol.ask()


@pytest.mark.parametrize(
    ("happened", "expected"),
    [
        (None, EVENT_SECONDS),
        (1000.0, EVENT_SECONDS),
        (990.0, EVENT_SECONDS - 10),
        (1.0, 0.0),
        (2000.0, EVENT_SECONDS),
    ],
)
def test_what_the_hook_has_waited_counts(happened: Optional[float], expected: float) -> None:
    for operation in REFUSING:
        assert seconds(operation, happened, 1000.0) == expected


def test_an_event_that_the_hook_does_not_wait_for_has_the_whole_time() -> None:
    assert seconds("release", 1.0, 1000.0) == EVENT_SECONDS
