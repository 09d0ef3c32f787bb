# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of strategies, and that no other module of the library compares a strategy's name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmigrate.model import strategy

LIBRARY = Path(strategy.__file__).parents[1]
TABLE = "model/strategy.py"

#: where a word that is also a strategy's name means something else, and how often it is there
OTHER_MEANINGS = {
    "cli/failover_verb.py": {"failover": 1},  # the verb
    "cli/main.py": {"failover": 1},  # the verb
    "events/of_guests.py": {"replug": 1},  # a kind of event
    "ovirt/vnic_profile.py": {"failover": 1},  # an element of the engine's vNIC profile
    "strategies/failover/primary_watch.py": {"replug": 1},  # an event in the journal
    "strategies/replug/arrivals.py": {"replug": 1},  # an event in the journal
}


def _constants(tree: ast.AST) -> Iterator[ast.Constant]:
    """The string constants of a module that are a strategy's name and not subscripts or keys of an answer."""
    keys = {id(each.slice) for each in ast.walk(tree) if isinstance(each, ast.Subscript)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in strategy.NAMES and id(node) not in keys:
            yield node


def _named(modules: dict[str, str]) -> dict[str, dict[str, int]]:
    """How often each module, by its path, has each strategy's name as a string."""
    found: dict[str, dict[str, int]] = {}
    for path, text in modules.items():
        for node in _constants(ast.parse(text)):
            counts = found.setdefault(path, {})
            counts[str(node.value)] = counts.get(str(node.value), 0) + 1
    return found


def _modules() -> dict[str, str]:
    return {
        str(path.relative_to(LIBRARY)): path.read_text()
        for path in sorted(LIBRARY.rglob("*.py"))
        if str(path.relative_to(LIBRARY)) != TABLE
    }


def test_no_other_module_contains_the_name_of_a_strategy() -> None:
    assert _named(_modules()) == OTHER_MEANINGS


@pytest.mark.parametrize(
    "line",
    [
        'if claim.strategy == "vfio": pass',
        'if claim.strategy not in (None, "failover"): pass',
        'STRATEGY = "replug"',
    ],
)
def test_a_planted_comparison_is_found(line: str) -> None:
    assert _named({"migrate/workflow.py": line})


def test_only_one_function_orders_teaming_mark_and_default() -> None:
    """The order of teaming, mark and default is in one function, which one property of an interface calls."""
    callers = [
        path
        for path, text in _modules().items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("of_interface", "strategy.of_interface")
    ]
    # Adoption knows of a running guest more than its interface shows: a standby that was plugged in first.
    assert callers == ["domain/domain_xml.py", "reservations/adoption.py"]


@pytest.mark.parametrize(
    ("teamed", "marked", "name"),
    [
        (False, None, "vfio"),
        (False, "vfio", "vfio"),
        (False, "replug", "replug"),
        (False, "failover", "failover"),
        (True, None, "failover"),
        (True, "vfio", "failover"),
        (True, "replug", "failover"),
    ],
)
def test_teaming_precedes_the_mark_and_the_mark_the_default(teamed: bool, marked: str, name: str) -> None:
    assert str(strategy.of_interface(teamed=teamed, marked=marked)) == name


def test_each_strategy_has_its_name_and_vfio_is_the_default() -> None:
    assert strategy.NAMES == ("vfio", "failover", "replug")
    assert [strategy.named(name).name for name in strategy.NAMES] == list(strategy.NAMES)
    assert strategy.named(None).name == strategy.DEFAULT == "vfio"


def test_each_strategy_has_its_traits() -> None:
    traits = [name for name, value in vars(strategy.named("vfio")).items() if isinstance(value, bool)]
    has = {
        name: {trait for trait in traits if getattr(strategy.named(name), trait)} for name in strategy.NAMES
    }
    assert has == {
        "vfio": {"state_travels", "needs_migratable", "uses_slot"},
        "failover": {"teamed", "port_follows_driver"},
        "replug": {"unplugged_first"},
    }
