# SPDX-License-Identifier: GPL-2.0-or-later
"""Which scenarios a run executes: shuffled by a seed, and resumed from the report of an earlier run."""

from __future__ import annotations

from pathlib import Path

from tests.testbed import packages, report, selection
from tests.testbed.__main__ import KNOWN
from tests.testbed.report import Record
from tests.testbed.scenarios import ALL
from tests.testbed.selection import Selection
from tests.testbed.timeline import Event

NAMES = [module.NAME for module in ALL]


def reported(path: Path, records: list[Record], tree: str = "this tree") -> Path:
    report.write(path, {}, records, tree, seed="7")
    return path


def test_a_seed_has_one_order_whatever_order_is_given() -> None:
    order = selection.shuffled(NAMES, "7")
    assert sorted(order) == sorted(NAMES)
    assert order == selection.shuffled(NAMES[::-1], "7")
    assert order != selection.shuffled(NAMES, "8")
    assert order != NAMES


def test_a_seed_is_taken_as_given_or_drawn() -> None:
    assert selection.new_seed("42") == "42"
    assert selection.new_seed("random").isdigit()


def test_scenarios_that_passed_do_not_run_again(tmp_path: Path) -> None:
    passed = Record(
        "b", outcome=report.PASSED, why=None, events=[Event(1.5, "a", "name", "text", {"k": "v"})]
    )
    path = reported(tmp_path / "report.json", [passed, Record("c"), Record("a")])
    chosen = selection.resumed(["a", "b", "c", "d"], selection.read_report(path), "this tree")
    assert chosen.names == ["b", "c", "a", "d"]
    assert chosen.passed == [passed]
    assert chosen.remaining == ["c", "a", "d"]
    assert chosen.seed == "7"


def test_only_the_scenarios_that_were_asked_for_are_resumed(tmp_path: Path) -> None:
    records = [Record(name, outcome=report.PASSED, why=None) for name in ("a", "b")]
    path = reported(tmp_path / "report.json", records)
    chosen = selection.resumed(["b"], selection.read_report(path), "this tree")
    assert (chosen.names, chosen.remaining) == (["b"], [])
    assert [record.name for record in chosen.passed] == ["b"]


def test_a_report_of_another_tree_counts_for_nothing(tmp_path: Path) -> None:
    path = reported(tmp_path / "report.json", [Record("a", outcome=report.PASSED, why=None)], "another tree")
    assert selection.resumed(["a"], selection.read_report(path), "this tree") == Selection(["a"])


def test_without_a_report_that_can_be_read_everything_runs(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert selection.resumed(["a"], selection.read_report(path), "this tree") == Selection(["a"])
    path.write_text("{")
    assert selection.resumed(["a"], selection.read_report(path), "this tree") == Selection(["a"])


def test_a_selection_survives_its_file(tmp_path: Path) -> None:
    chosen = Selection(["a", "b"], "7", [Record("a", outcome=report.PASSED, why=None)])
    selection.save(chosen, tmp_path / "file")
    assert selection.load(tmp_path / "file") == chosen


def test_the_tree_has_a_digest() -> None:
    digest = selection.tree()
    assert digest == selection.tree()
    assert len(digest) == 16
    missing = [name for name in selection.SOURCES if not (packages.CLONE / name).exists()]
    assert not missing


def test_scenarios_have_names_of_their_own() -> None:
    assert all(KNOWN[module.NAME] is module for module in ALL)
