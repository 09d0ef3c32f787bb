# SPDX-License-Identifier: GPL-2.0-or-later
"""The report and the timeline, from what was recorded."""

from __future__ import annotations

import json
from pathlib import Path

from tests.testbed import report, timeline
from tests.testbed.report import Record


def test_the_report_has_versions_and_scenarios(tmp_path: Path) -> None:
    path = tmp_path / "build" / "report.json"
    event = timeline.Event(12.5, "b", "migrate", "took VF", {"domain": "g"})
    passed = Record("one", outcome=report.PASSED, why=None, events=[event])
    report.write(path, {"libvirt": "11.3.0"}, [passed, Record("two")])
    told = json.loads(path.read_text())
    assert told["versions"] == {"libvirt": "11.3.0"}
    one, two = told["scenarios"]
    assert one["name"] == "one"
    assert one["outcome"] == "passed"
    assert "why" not in one
    assert one["events"] == [
        {"ms": 12.5, "where": "b", "name": "migrate", "message": "took VF", "fields": {"domain": "g"}}
    ]
    assert (two["outcome"], two["why"]) == ("failed", "it did not run")
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_events_come_from_the_journal_on_the_migrations_clock() -> None:
    def line(**fields: str) -> str:
        return json.dumps({"MESSAGE": "said", "__REALTIME_TIMESTAMP": "1000500000", **fields})

    text = "\n".join(
        [
            line(VFMIGRATE_EVENT="early", _SOURCE_REALTIME_TIMESTAMP="999999999"),
            line(VFMIGRATE_EVENT="sent", _SOURCE_REALTIME_TIMESTAMP="1000250000", VFMIGRATE_DOMAIN="g"),
            line(VFMIGRATE_EVENT="received"),
            line(),
        ]
    )
    events = timeline.parse(text, "a", since=1000.0)
    assert [(event.ms, event.where, event.name, event.fields) for event in events] == [
        (250.0, "a", "sent", {"domain": "g"}),
        (500.0, "a", "received", {}),
    ]
