# SPDX-License-Identifier: GPL-2.0-or-later
"""Run scenarios one after another, each within its time, and report them.

No scenario depends on how the one before it ended. After one that failed, and after one that left the hosts other than
they were provisioned, hosts and switch return to the saved state before the next begins.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType, ModuleType
from typing import NoReturn, Optional

from rich.markup import escape

from tests.patience import PATIENCE
from tests.testbed import diagnosis, expect, fabric, facts, report, results, selection, terminal
from tests.testbed.expect import ScenarioError
from tests.testbed.guest import Guest
from tests.testbed.host import HostError
from tests.testbed.lab import Lab
from tests.testbed.report import PASSED, Record
from tests.testbed.run import CommandError
from tests.testbed.selection import Selection

FAILURES = (ScenarioError, HostError, CommandError, fabric.FabricError, subprocess.TimeoutExpired, OSError)

REPORT = report.BUILD / "report.json"

# Hosts that boot from a saved state can fail to come up on a machine that is busy.
RESTORE_ATTEMPTS = 2

Looked = dict[str, facts.Facts]


class OutOfTimeError(ScenarioError):
    """A scenario did not end in its time."""


def run_all(lab: Lab, chosen: Selection, modules: Mapping[str, ModuleType]) -> list[Record]:
    """Run the scenarios that remain and write the report after each; returns the records of all."""
    records = {name: Record(name) for name in chosen.names}
    records.update((record.name, record) for record in chosen.passed)
    tree, versions = selection.tree(), lab.versions()

    def write() -> None:
        report.write(REPORT, versions, list(records.values()), tree, chosen.seed)

    write()
    running = [modules[name] for name in chosen.remaining]
    provisioned = before = lab.look()
    why = ""
    for scenario, following in zip(running, (*running[1:], None)):
        if why:
            try:
                restore(lab, why)
                provisioned = before = lab.look()
            except FAILURES as error:
                terminal.say(f"[red]the hosts cannot be restored[/red]: {escape(str(error))}")
                break
        record = records[scenario.NAME]
        terminal.heading(scenario.NAME)
        lab.staying = finds(following)
        lab.note_changes(f"{scenario.NAME} was interrupted")
        run_one(lab, scenario, record, before)
        write()
        after, why = changes(lab, record, provisioned)
        lab.note_changes(why)
        if after is not None and lab.staying is None:
            before = after
    return list(records.values())


def show(records: Sequence[Record], earlier: Sequence[Record]) -> None:
    """Print the results of a run, and where its report is."""
    results.show(terminal.console, records, {record.name for record in earlier})
    terminal.say(f"report: {REPORT}")


def restore(lab: Lab, why: str) -> None:
    """Bring hosts and switch back to their saved state; another attempt follows one that failed."""
    for attempt in range(1, RESTORE_ATTEMPTS + 1):
        try:
            lab.restore(why)
            return
        except FAILURES:
            if attempt == RESTORE_ATTEMPTS:
                raise


def changes(lab: Lab, record: Record, provisioned: Looked) -> tuple[Optional[Looked], str]:
    """The facts of both hosts after a scenario, and why hosts must be restored before the next ("": they need not)."""
    if record.outcome != PASSED:
        return None, f"{record.name} failed"
    try:
        after = lab.look()
    except FAILURES as error:
        return None, f"the hosts do not answer: {error}"
    told = [
        f"host-{name}: {why}" for name in provisioned for why in facts.changes(provisioned[name], after[name])
    ]
    return after, f"{record.name} changed the hosts: {'; '.join(told)}" if told else ""


def finds(scenario: Optional[ModuleType]) -> Optional[Guest]:
    """The guest that a scenario uses as the one before it left it."""
    guest: Optional[Guest] = getattr(scenario, "FINDS", None)
    return guest


def run_one(lab: Lab, scenario: ModuleType, record: Record, before: Looked) -> None:
    """Run one scenario and record how it ended. `before` is how the hosts looked without a guest."""
    begun = time.monotonic()
    folder = report.BUILD / record.name
    saved: list[str] = []
    shutil.rmtree(folder, ignore_errors=True)

    def save_moment(step: str, error: BaseException) -> None:
        if not saved:
            saved.append(step)
            with contextlib.suppress(*FAILURES):
                diagnosis.save_moment(lab.hosts, folder / "moment", step, error)

    try:
        with terminal.on_failure(save_moment), within(round(scenario.TIMEOUT_S * PATIENCE)):
            scenario.run(lab, record)
        record.left_behind = dict(lab.settle(before))
        clean = all(map(facts.is_clean, record.left_behind.values()))
        expect.that(clean, f"it left something behind: {told(record)}")
        record.outcome, record.why = PASSED, None
    except Exception as error:  # noqa: BLE001 - a mistake in one scenario must not keep the others from running
        if not isinstance(error, FAILURES):
            traceback.print_exc()
        record.why = " ".join(str(error).split()) or type(error).__name__
        save_moment("an expectation after its steps", error)
        with contextlib.suppress(*FAILURES):
            diagnosis.save_logs(lab.hosts, folder)
        terminal.say(f"[red]{record.name} failed[/red]: {escape(record.why)}")
        terminal.say(f"logs: {folder}")
    record.seconds = round(time.monotonic() - begun, 1)


def told(record: Record) -> str:
    """What a scenario left behind, in words."""
    return "; ".join(
        f"host-{host}: {kind} {', '.join(items)}"
        for host, kinds in record.left_behind.items()
        for kind, items in kinds.items()
        if items
    )


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise OutOfTimeError in the block after this many seconds. Only for the main thread."""

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
