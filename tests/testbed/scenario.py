# SPDX-License-Identifier: GPL-2.0-or-later
"""Running scenarios: each in its time, one after another whatever becomes of the others, cleaned up after, reported."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import NoReturn, Optional

from tests.patience import PATIENCE
from tests.testbed import expect, fabric, facts, report, terminal
from tests.testbed.expect import ScenarioError
from tests.testbed.guest import Guest
from tests.testbed.host import HostError
from tests.testbed.lab import Lab
from tests.testbed.report import Record
from tests.testbed.run import CommandError

FAILURES = (ScenarioError, HostError, CommandError, fabric.FabricError, subprocess.TimeoutExpired, OSError)


class OutOfTimeError(ScenarioError):
    """A scenario did not end in its time."""


def run_all(lab: Lab, scenarios: Sequence[ModuleType]) -> list[Record]:
    """Run scenarios and write the report after each; returns their records."""
    records = [Record(scenario.NAME) for scenario in scenarios]
    versions = lab.versions()
    path = report.BUILD / "report.json"
    report.write(path, versions, records)
    before: Optional[dict[str, facts.Facts]] = None
    for scenario, following, record in zip(scenarios, (*scenarios[1:], None), records):
        terminal.heading(scenario.NAME)
        lab.staying = finds(following)
        before = run_one(lab, scenario, record, before if finds(scenario) else None)
        report.write(path, versions, records)
    terminal.results(records)
    terminal.console.print(f"report: {path}", soft_wrap=True)
    return records


def finds(scenario: Optional[ModuleType]) -> Optional[Guest]:
    """The guest that a scenario uses as the one before it left it."""
    guest: Optional[Guest] = getattr(scenario, "FINDS", None)
    return guest


def run_one(
    lab: Lab, scenario: ModuleType, record: Record, before: Optional[dict[str, facts.Facts]]
) -> Optional[dict[str, facts.Facts]]:
    """Run one scenario and record how it ended, with what it left behind.

    `before` is how the hosts looked without a guest, where that is known; returned for the next.
    """
    begun = time.monotonic()
    try:
        before = before or lab.look()
        with within(round(scenario.TIMEOUT_S * PATIENCE)):
            scenario.run(lab, record)
        record.left_behind = dict(lab.settle(before))
        clean = all(map(facts.is_clean, record.left_behind.values()))
        expect.that(clean, f"it left something behind: {told(record)}")
        record.outcome, record.why = report.PASSED, None
    except Exception as error:  # noqa: BLE001 - a mistake in one scenario must not keep the others from running
        if not isinstance(error, FAILURES):
            traceback.print_exc()
        record.why = " ".join(str(error).split()) or type(error).__name__
        keep_logs(lab, record)
        clear_away(lab)
        with contextlib.suppress(*FAILURES):
            record.left_behind = dict(lab.settle(before)) if before else {}
    record.seconds = round(time.monotonic() - begun, 1)
    return before


def told(record: Record) -> str:
    """What a scenario left behind, in words."""
    return "; ".join(
        f"host-{host}: {kind} {', '.join(items)}"
        for host, kinds in record.left_behind.items()
        for kind, items in kinds.items()
        if items
    )


def keep_logs(lab: Lab, record: Record) -> None:
    """Collect the hosts' logs of a scenario that failed, and say where they are."""
    folder = report.BUILD / "logs" / record.name
    try:
        lab.collect_logs(folder)
    except FAILURES as error:
        terminal.console.print(f"[red]the logs could not be collected: {error}[/red]", soft_wrap=True)
    terminal.console.print(f"[red]{record.name} failed[/red]: {record.why}", soft_wrap=True)
    terminal.console.print(f"logs: {folder}", soft_wrap=True)


def clear_away(lab: Lab) -> None:
    """End the guests that a failed scenario left running, so that the next one has a chance."""
    for host in lab.hosts:
        try:
            host.run("for name in $(virsh list --name); do virsh destroy $name; done")
        except FAILURES as error:
            terminal.console.print(
                f"[red]{host.hostname} could not be cleared: {error}[/red]", soft_wrap=True
            )


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise OutOfTimeError in the block after so many seconds. Only for the main thread."""

    def expired(number: int, frame: Optional[FrameType]) -> NoReturn:
        del number, frame
        raise OutOfTimeError(f"it did not end within {seconds} s")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
