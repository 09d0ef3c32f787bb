# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenarios run one after another: what happens between them, and what the report has at each moment."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Callable, Optional, cast

import pytest

from tests.testbed import diagnosis, facts, report, scenario
from tests.testbed.expect import ScenarioError
from tests.testbed.guest import Guest
from tests.testbed.host import HostError
from tests.testbed.lab import Lab
from tests.testbed.report import PASSED, Record
from tests.testbed.selection import Selection

PROVISIONED = facts.Facts(state=dict.fromkeys(facts.STATE, "as provisioned"))


class FakeLab:
    """Two hosts in memory, and a list of what was done with them."""

    def __init__(self) -> None:
        self.hosts = ()
        self.staying: Optional[Guest] = None
        self.now = PROVISIONED
        self.done: list[str] = []
        self.noted = ""
        self.broken_restores = 0

    def look(self) -> dict[str, facts.Facts]:
        return {"a": self.now, "b": PROVISIONED}

    def settle(self, before: dict[str, facts.Facts]) -> dict[str, facts.LeftBehind]:
        return {"a": facts.left_behind(before["a"], self.now)}

    def versions(self) -> dict[str, str]:
        return {}

    def note_changes(self, why: str) -> None:
        self.noted = why

    def restore(self, why: str) -> None:
        self.done.append(f"restored: {why}")
        if self.broken_restores:
            self.broken_restores -= 1
            raise HostError("host-a did not come up")
        self.now = PROVISIONED


@pytest.fixture(autouse=True)
def _no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "BUILD", tmp_path)
    monkeypatch.setattr(scenario, "REPORT", tmp_path / "report.json")
    monkeypatch.setattr(diagnosis, "save_consoles", lambda _folder: None)


def module(lab: FakeLab, name: str, run: Callable[[], object], finds: Optional[Guest] = None) -> ModuleType:
    def runs(_lab: Any, _record: Record) -> None:
        lab.done.append(name)
        run()

    return cast("ModuleType", SimpleNamespace(NAME=name, TIMEOUT_S=60, run=runs, FINDS=finds))


def fails() -> None:
    raise ScenarioError("planted")


def run_all(lab: FakeLab, *modules: ModuleType, passed: tuple[Record, ...] = ()) -> dict[str, Record]:
    known = {each.NAME: each for each in modules}
    chosen = Selection(list(known), passed=passed)
    return {record.name: record for record in scenario.run_all(cast("Lab", lab), chosen, known)}


def test_nothing_happens_between_scenarios_that_pass_and_change_nothing() -> None:
    lab = FakeLab()
    records = run_all(lab, module(lab, "one", lambda: None), module(lab, "two", lambda: None))
    assert lab.done == ["one", "two"]
    assert {record.outcome for record in records.values()} == {PASSED}
    assert lab.noted == ""


def test_the_hosts_are_restored_after_a_failure_and_before_the_next() -> None:
    lab = FakeLab()
    records = run_all(lab, module(lab, "one", fails), module(lab, "two", lambda: None))
    assert lab.done == ["one", "restored: one failed", "two"]
    assert (records["one"].outcome, records["one"].why) == (report.FAILED, "planted")
    assert records["two"].outcome == PASSED


def test_the_hosts_are_restored_after_a_scenario_that_changed_them() -> None:
    lab = FakeLab()

    def restart_switch() -> None:
        lab.now = replace(PROVISIONED, state={**PROVISIONED.state, "openvswitch": "another process"})

    records = run_all(lab, module(lab, "one", restart_switch), module(lab, "two", lambda: None))
    assert lab.done == ["one", "restored: one changed the hosts: host-a: Open vSwitch was restarted", "two"]
    assert {record.outcome for record in records.values()} == {PASSED}


def test_what_is_left_behind_is_a_failure() -> None:
    lab = FakeLab()

    def leave_port() -> None:
        lab.now = replace(PROVISIONED, ports={"left": None})

    records = run_all(lab, module(lab, "one", leave_port), module(lab, "two", lambda: None))
    assert records["one"].why == "it left something behind: host-a: ports left"
    assert records["two"].outcome == PASSED


def test_hosts_that_cannot_be_restored_end_the_run_after_another_attempt() -> None:
    lab = FakeLab()
    lab.broken_restores = 1
    records = run_all(lab, module(lab, "one", fails), module(lab, "two", lambda: None))
    assert records["two"].outcome == PASSED
    lab = FakeLab()
    lab.broken_restores = scenario.RESTORE_ATTEMPTS
    records = run_all(lab, module(lab, "one", fails), module(lab, "two", lambda: None))
    assert (records["two"].outcome, records["two"].why) == (report.FAILED, "it did not run")


def test_nothing_is_restored_after_the_last_scenario_but_its_state_is_noted() -> None:
    lab = FakeLab()
    run_all(lab, module(lab, "one", fails))
    assert lab.done == ["one"]
    assert lab.noted == "one failed"


def test_the_report_is_written_as_the_run_goes_on() -> None:
    lab = FakeLab()
    seen: list[list[str]] = []

    def read() -> None:
        told = json.loads(scenario.REPORT.read_text())
        seen.append([f"{each['name']} {each['outcome']}" for each in told["scenarios"]])

    earlier = Record("zero", outcome=PASSED, why=None)
    modules = [module(lab, name, read) for name in ("zero", "one", "two")]
    run_all(lab, *modules, passed=(earlier,))
    assert lab.done == ["one", "two"]
    assert seen == [
        ["zero passed", "one failed", "two failed"],
        ["zero passed", "one passed", "two failed"],
    ]


def test_a_mistake_in_a_scenario_does_not_end_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    lab = FakeLab()
    records = run_all(
        lab, module(lab, "one", lambda: json.loads("{}")["missing"]), module(lab, "two", lambda: None)
    )
    assert records["one"].outcome == report.FAILED
    assert records["two"].outcome == PASSED
    assert "KeyError" in capsys.readouterr().err
