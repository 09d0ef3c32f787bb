# SPDX-License-Identifier: GPL-2.0-or-later
"""How measurements are taken; what they come to is for `make bench` to say."""

from __future__ import annotations

from functools import partial

from tests.bench import hook
from tests.bench.measure import Result, Turn, medians
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


def test_an_aim_is_met_by_a_value_that_equals_it() -> None:
    met = [Result("r", value, 1.2, "x").met for value in (1.1, 1.2, 1.21)]
    assert met == [True, True, False]
    assert Result("r", 99.0, None, "x").met


def test_a_result_is_rounded_in_the_report() -> None:
    expected = {"name": "r", "value": 1.235, "aim": 1.5, "against": "x"}
    assert Result("r", 1.23456, 1.5, "x").as_json() == expected


def test_the_plain_guest_of_the_benchmark_has_no_vf() -> None:
    plain = domain_xml.read(hook.GUEST.read_text(encoding="utf-8"))
    assert not plain.interfaces
