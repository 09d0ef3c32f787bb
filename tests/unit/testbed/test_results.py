# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of results: what it shows at which width, and the line that sums it up."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.testbed import report, results
from tests.testbed.__main__ import KNOWN
from tests.testbed.report import Record
from tests.testbed.scenarios import DEMO

EARLIER = f"{report.PASSED} earlier"


def record(name: str, outcome: str = report.PASSED) -> Record:
    return Record(
        name,
        outcome=outcome,
        why=None if outcome == report.PASSED else "host-b [that one] did not answer",
        source_vf="0000:01:10.2",
        destination_vf="0000:01:10.0",
        source_vlan=42,
        destination_vlan=42,
        downtime_ms=12345.0,
        pings_sent=4012,
        pings_lost=312,
        longest_silence_ms=23456.0,
        left_behind={"a": {"ports": ["x"]}},
        seconds=2345.6,
    )


def shown(records: list[Record], width: int, earlier: tuple[str, ...] = ()) -> list[str]:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    results.show(console, records, earlier)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 120, 1000])
def test_no_cell_is_cut_and_the_table_fits(width: int) -> None:
    records = [record(name) for name in KNOWN]
    lines = shown(records, width, earlier=("vfio-vlan",))
    rows = lines[3 : 3 + len(records)]
    assert [row.split()[0] for row in rows] == list(KNOWN)
    assert all(len(row) <= width for row in rows)
    assert not any("…" in row for row in rows)
    assert all(report.PASSED in row for row in rows)
    assert EARLIER in rows[0]
    assert all("2346 s" in row for row in rows)


def test_the_table_widens_with_the_terminal() -> None:
    records = [record(name) for name in KNOWN]
    titles = [shown(records, width)[2].split() for width in (40, 80, 90, 1000)]
    assert titles[0] == ["scenario", "outcome", "took"]
    assert [len(each) for each in titles] == sorted({len(each) for each in titles})
    assert titles[-1] == [column.title for column in results.COLUMNS]


def test_the_demo_shows_where_vfs_went_in_80_columns() -> None:
    lines = shown([record(module.NAME) for module in DEMO], 80)
    assert "01:10.2 → 01:10.0" in lines[3]
    assert "12345 ms" in lines[3]


def test_failed_scenarios_are_listed_with_the_reason() -> None:
    lines = shown([record("one"), record("two", report.FAILED)], 80)
    assert "two: host-b [that one] did not answer" in lines
    assert lines[-1] == "1 of 2 scenarios passed in 1 h 18 min; failed: two"


def test_scenarios_that_passed_earlier_are_counted() -> None:
    records = [record("one"), record("two")]
    assert (
        results.summary(records, ["one"])
        == "2 of 2 scenarios passed in 39 min 6 s, 1 of them in an earlier run"
    )
