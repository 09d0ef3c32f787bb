# SPDX-License-Identifier: GPL-2.0-or-later
"""The verdict of the preflight checks, as JSON and for the terminal."""

from __future__ import annotations

import json

from tests.unit.preflight.snapshots import bad, good, pf, way
from vfmigrate.cli import tables
from vfmigrate.model import host_facts
from vfmigrate.model.libvirt_facts import CpuFacts
from vfmigrate.preflight import report


def test_a_guest_without_findings_can_migrate() -> None:
    snapshot = good()
    lines = report.judge(snapshot)
    assert bad(snapshot) == []
    assert report.can_migrate(lines)
    verdict = tables.verdict(report.plain(snapshot, lines))
    assert verdict.startswith("guest 'g' can migrate to there: 0 errors, 0 warnings, ")
    assert {line.side for line in lines} == {"source", "destination", "pair"}


def test_the_report_is_json() -> None:
    snapshot = pf("destination", firmware="28.39.1")(good())
    lines = report.judge(snapshot)
    plain = json.loads(json.dumps(report.plain(snapshot, lines)))
    assert {key: plain[key] for key in ("schema", "guest", "source", "destination", "can_go")} == {
        "schema": 1,
        "guest": "g",
        "source": "here",
        "destination": "there",
        "can_go": False,
    }
    (card,) = [line for line in plain["checks"] if line["check"] == "card"]
    assert set(card) == {"side", "check", "severity", "text", "remedy", "detail"}


def test_the_report_fits_the_terminal() -> None:
    snapshot = way(cpu=CpuFacts(False, baseline="<cpu>\n  <model>old</model>\n</cpu>"))(good())
    shown = list(tables.check(report.plain(snapshot, report.judge(snapshot)), 80, verbose=True))
    assert [line for line in shown if not line.startswith(" ")][:3] == [
        "source here:",
        "destination there:",
        "both hosts:",
    ]
    assert all(len(line) <= 80 for line in shown)
    assert "             <model>old</model>" in shown
    assert shown[-1].startswith("guest 'g' cannot migrate to there: 1 error, 0 warnings")


def test_host_facts_are_read_back_from_json() -> None:
    here = good().source.facts
    assert here is not None
    assert host_facts.read(json.loads(json.dumps(here.plain()))) == here
