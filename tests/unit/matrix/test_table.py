# SPDX-License-Identifier: GPL-2.0-or-later
"""The matrix of releases: pytest's reports, the table of the cells, and which cell's turn it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import junit
from tests.integration import roots
from tests.matrix import table
from tests.matrix.__main__ import count
from tests.matrix.cells import CELLS, in_turn
from tests.matrix.table import Result
from tests.testbed.releases import BOOKWORM, FORKY, TRIXIE

TREE = Path(__file__).parents[3]
REPORT = """<testsuites><testsuite>
<testcase name="test_one"/>
<testcase name="test_two"><failure message="wrong\nindeed">trace</failure></testcase>
<testcase name="test_three"><error message="no host"/></testcase>
<testcase name="test_four"><skipped/></testcase>
</testsuite></testsuites>"""


def test_a_report_counts_errors_as_failures(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(REPORT.replace("\n<", "<"))
    report = junit.read(path)
    assert (report.passed, report.skipped, report.tried) == (1, 1, 3)
    assert [line.partition(":")[0] for line in report.failures] == ["test_two", "test_three"]


def test_what_fails_twice_counts_as_failed_and_what_passes_then_is_told() -> None:
    result = Result("forky")
    count(result, [junit.Report(8, 1, ["a: x", "b: y"])], [junit.Report(1, 0, ["b: y"])])
    assert (result.passed, result.again, result.failures) == (9, 1, ["b: y"])
    assert result.outcome == "failed"


def test_a_cell_without_its_root_or_without_tests_did_not_pass() -> None:
    assert Result("forky", missing="no mirror").outcome == "not run"
    assert Result("forky").outcome == "failed"
    assert Result("forky", passed=1).outcome == "passed"


def test_the_table_has_both_versions_of_a_cell_with_two_releases() -> None:
    both = Result("a-b", {"libvirt": ["9.0.0", "11.3.0"], "Python": ["3.13", "3.13"]}, passed=3, seconds=61)
    title, _, row = table.lines([both])
    shown = dict(zip(*([each.strip() for each in line.split("|")] for line in (title, row))))
    assert shown["libvirt"] == "9.0.0 → 11.3.0"
    assert (shown["Python"], shown["QEMU"], shown["outcome"], shown["time"]) == (
        "3.13",
        "-",
        "passed",
        "1:01",
    )


def test_each_cell_but_that_of_make_test_has_its_turn() -> None:
    turns = {in_turn(count).name for count in range(20)}
    assert turns == {cell.name for cell in CELLS} - {TRIXIE.name}


def test_the_modules_of_each_cell_exist() -> None:
    for cell in CELLS:
        for run in cell.runs:
            for module in run.modules:
                assert (TREE / f"tests/integration/{module}.py").exists()


def test_guests_have_a_machine_that_both_hosts_have() -> None:
    assert roots.machine(FORKY, BOOKWORM) == roots.machine(BOOKWORM, TRIXIE) == "pc-q35-7.2"


@pytest.mark.parametrize("said", ["jessie", "forky,sid", "a,b,c"])
def test_an_unknown_release_is_an_error(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv(roots.VARIABLE, said)
    roots.releases.cache_clear()
    with pytest.raises(ValueError, match="trixie-backports"):
        roots.releases()
    roots.releases.cache_clear()
