# SPDX-License-Identifier: GPL-2.0-or-later
"""The timeline of a migration from what two hosts answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from vfmigrate.cli import trace_verb
from vfmigrate.errors import InputError, Refused, Unreachable
from vfmigrate.migrate import timeline

ID, OLDER = "91c3b0a7d2e84f16", "0123456789abcdef"
UUID = "11111111-1111-4111-8111-111111111111"


def event(at: float, name: str, trace: str = ID, **fields: str) -> dict[str, Any]:
    of_guest = {"trace": trace, "domain": "g", "uuid": UUID}
    return {
        "time": at,
        "program": "vfmigrated",
        "event": name,
        "text": f"{name} of guest 'g'",
        "level": 6,
        "fields": {**of_guest, **fields},
    }


def answer(host: str, *events: dict[str, Any], clock: float = 100.0) -> dict[str, Any]:
    return {"schema": 1, "host": host, "time": clock, "events": list(events)}


HERE = answer("host-a", event(14.0, "stopped"), event(14.5, "release", reason="migrated"))
THERE = answer(
    "host-b",
    event(10.0, "migrate", source="host-a"),
    event(13.5, "arrived", downtime_ms="212", total_ms="3000"),
)


def test_the_entries_of_both_hosts_are_in_order_with_source_destination_and_downtime() -> None:
    hosts = [timeline.read(each, 100.0, 100.0) for each in (HERE, THERE)]
    assert timeline.trace_of(hosts) == ID
    found = timeline.build(ID, hosts)
    assert [(each.host, each.event) for each in found.events] == [
        ("host-b", "migrate"),
        ("host-b", "arrived"),
        ("host-a", "stopped"),
        ("host-a", "release"),
    ]
    assert (found.guest, found.uuid) == ("g", UUID)
    assert (found.source, found.destination, found.downtime_ms) == ("host-a", "host-b", 212)
    assert found.period_ms() == (7000, 17500)


def test_a_clock_that_is_wrong_for_certain_is_corrected_and_shown() -> None:
    late = answer("host-b", event(70.0, "migrate"), clock=160.0)
    found = timeline.build(ID, [timeline.read(late, 99.5, 100.5)])
    assert [each.time for each in found.events] == [10.0]
    assert found.clocks == {"host-b": 60.0}
    assert "the clock of host-b is 60.0 s ahead; corrected" in list(trace_verb.lines(found, None))


def test_a_clock_that_can_be_right_is_left() -> None:
    found = timeline.build(ID, [timeline.read(answer("b", event(10.0, "migrate"), clock=100.4), 99.5, 100.5)])
    assert [each.time for each in found.events] == [10.0]
    assert found.clocks == {}


def test_an_entry_that_two_pools_answer_is_shown_once() -> None:
    twice = answer("host-b", event(10.0, "migrate"), event(10.0, "migrate"))
    assert len(timeline.build(ID, [timeline.read(twice, 100.0, 100.0)]).events) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"host": "b", "events": []},
        {"host": "b", "time": 1.0, "events": ["x"]},
        {"host": "b", "time": 1.0, "events": [{"fields": {}, "time": "soon"}]},
    ],
)
def test_an_answer_of_another_form_is_an_error(bad: Mapping[str, Any]) -> None:
    with pytest.raises(InputError):
        timeline.read(bad, 1.0, 1.0)


def test_the_second_round_asks_every_host_for_the_time_of_the_migration() -> None:
    asked: list[tuple[str, Mapping[str, Any]]] = []

    def source(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(("source", wanted))
        return (
            answer("host-a", event(1.0, "arrived", OLDER), clock=time.time())
            if "guest" in wanted
            else dict(HERE, time=time.time())
        )

    def destination(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(("destination", wanted))
        return dict(THERE, time=time.time())

    found = trace_verb.collect({"a": source, "b": destination}, "g")
    assert found.trace == ID
    assert {each.event for each in found.events} == {"migrate", "arrived", "stopped", "release"}
    again = {"trace": ID, "uuid": UUID, "since": 7000, "until": 16500}
    assert [wanted for _, wanted in asked[2:]] == [again, again]


def test_a_host_that_does_not_answer_is_reported_and_the_rest_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def silent(_wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        raise Unreachable("host-b: vfmigrated does not answer")

    found = trace_verb.collect({"a": lambda _wanted: HERE, "host-b": silent}, ID)
    assert [each.event for each in found.events] == ["stopped", "release"]
    assert "host-b: vfmigrated does not answer" in capsys.readouterr().err
    with pytest.raises(Unreachable):
        trace_verb.collect({"host-b": silent}, ID)


def test_a_guest_that_has_not_migrated_is_refused() -> None:
    with pytest.raises(Refused, match="have no migration of guest 'g'"):
        trace_verb.collect({"a": lambda _wanted: answer("host-a")}, "g")
