# SPDX-License-Identifier: GPL-2.0-or-later
"""How measurements are taken; what they come to is for `make bench` to say."""

from __future__ import annotations

import io
from functools import partial

from rich.console import Console

from tests.bench import hook
from tests.bench.__main__ import show
from tests.bench.measure import Result, Turn, medians, ratios, typical
from vfmigrate.domain import domain_xml


def test_turns_alternate_and_each_is_reset() -> None:
    seen: list[str] = []
    turns = {
        name: Turn(partial(seen.append, name), partial(seen.append, f"reset {name}")) for name in ("a", "b")
    }
    times = medians(turns, 2, warm_up=1)
    forth, back = ["a", "reset a", "b", "reset b"], ["b", "reset b", "a", "reset a"]
    assert seen == back + forth + back
    assert times.keys() == {"a", "b"}


def test_each_run_gives_a_ratio() -> None:
    runs = [{"a": 4.0, "b": 2.0}, {"a": 3.0, "b": 2.0}, {"a": 1.0, "b": 2.0}]
    assert ratios(runs, "a", "b") == [2.0, 1.5, 0.5]
    assert typical(runs, "a") == 3.0


def test_an_aim_is_met_by_a_value_that_equals_it() -> None:
    met = [Result("r", [value], 1.2, "x").met for value in (1.1, 1.2, 1.21)]
    assert met == [True, True, False]
    assert Result("r", [99.0], None, "x").met


def test_the_median_of_the_runs_decides() -> None:
    assert Result("r", [0.1, 1.2, 9.0], 1.2, "x").met
    assert not Result("r", [0.1, 1.3, 1.4], 1.2, "x").met


def test_a_result_is_rounded_in_the_report() -> None:
    result = Result("r", [1.0, 1.23456, 3.0], 1.5, "x")
    assert result.as_json() == {
        "name": "r",
        "value": 1.235,
        "unit": "ratio",
        "runs": [1.0, 1.235, 3.0],
        "aim": 1.5,
        "against": "x",
    }


def test_the_table_fits_80_columns_and_cuts_nothing() -> None:
    results = [
        Result("ovs-1000-ports-with-switch", [108.76, 93.5, 131.0], None, "relative to 10 ports"),
        Result("status-127-vfs", [81.25, 84.5, 88.0], 50.0, "the clock", unit="ms"),
    ]
    console = Console(file=io.StringIO(), width=80)
    show(console, results)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for part in ("ovs-1000-ports-with-switch", "93.50-131.00", "status-127-vfs", "84.50", "50", "ms"):
        assert part in text
    assert "…" not in text


def test_the_plain_guest_of_the_benchmark_has_no_vf() -> None:
    plain = domain_xml.read(hook.GUEST.read_text(encoding="utf-8"))
    assert not plain.interfaces
