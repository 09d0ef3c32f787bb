# SPDX-License-Identifier: GPL-2.0-or-later
"""What a migration shows: lines, events, and the bar on a terminal of 80 columns."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from vfmigrate.cli.display import JsonDisplay, LineDisplay
from vfmigrate.cli.migrate_verb import summary
from vfmigrate.cli.progress_bar import rendered
from vfmigrate.migrate.workflow import MigrationReport
from vfmigrate.model.progress import Progress

MIB = 2**20
NOW = Progress(
    elapsed=12.0,
    total=64 * MIB,
    remaining=16 * MIB,
    rate=4 * MIB,
    dirty_rate=3 * MIB,
    iteration=2,
    vf_state=1 * MIB,
    expected_downtime=900,
)
TEXT = (
    "16.0 MiB of 64.0 MiB memory left, VF state 1.0 MiB, 4.0 MiB/s, guest dirties 3.0 MiB/s, "
    "downtime about 900 ms (1000 allowed)"
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_progress_lines_are_printed_at_intervals() -> None:
    file, clock = io.StringIO(), Clock()
    lines = LineDisplay(file, clock)
    for _ in range(24):
        lines.progress(NOW, 1000)
        clock.now += 0.25
    lines.event("end", "arrived")
    assert file.getvalue().splitlines() == [f"pass 2, 75%, {TEXT}", f"pass 2, 75%, {TEXT}", "arrived"]


def test_json_events_have_time_text_and_figures() -> None:
    file, clock = io.StringIO(), Clock()
    events = JsonDisplay(file, clock)
    events.event("begin", "it goes", vfs=[])
    for _ in range(8):
        clock.now += 0.25
        events.progress(NOW, 1000)
    begin, first, second = (json.loads(line) for line in file.getvalue().splitlines())
    assert begin == {"schema": 1, "event": "begin", "at": 0.0, "text": "it goes", "vfs": []}
    assert (first["at"], second["at"]) == (0.25, 1.25)
    assert first["text"] == TEXT
    assert (first["memory_remaining"], first["rate"], first["vf_state"]) == (16 * MIB, 4 * MIB, MIB)
    assert (first["expected_downtime_ms"], first["allowed_downtime_ms"]) == (900, 1000)


def test_unknown_figures_are_not_shown() -> None:
    file = io.StringIO()
    LineDisplay(file).progress(Progress(elapsed=1.0, total=64 * MIB, remaining=64 * MIB, rate=MIB), 300)
    assert file.getvalue() == "pass 0, 0%, 64.0 MiB of 64.0 MiB memory left, 1.0 MiB/s\n"


def test_the_bar_shows_pass_percentage_and_figures() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(rendered(NOW, 1000))
    file = console.file
    assert isinstance(file, io.StringIO)
    head, *rest = file.getvalue().splitlines()
    assert head.startswith("pass 2 ━━━━")
    assert head.rstrip().endswith(" 75%  12 s")
    assert " ".join(line.strip() for line in rest) == TEXT


def test_the_bar_is_green_while_all_is_well() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="truecolor")
    for now in (NOW, replace(NOW, remaining=0, vf_state=0)):
        console.print(rendered(now, 1000))
    file = console.file
    assert isinstance(file, io.StringIO)
    bars = [line.split("━")[0] for line in file.getvalue().splitlines() if "━" in line]
    assert len(bars) == 2
    assert all(bar.endswith("\x1b[32m") for bar in bars), bars


def test_the_summary_has_total_downtime_and_each_vf() -> None:
    report = MigrationReport(
        arrived=True,
        total_ms=12345.6,
        downtime_ms=250,
        standstill_ms=261.4,
        away_ms={"52:54:00:00:00:02": 9876.5},
        verified={"52:54:00:00:00:02": "carries traffic (17 frames sent by the guest)"},
    )
    total, downtime, stopped, away, traffic = summary(report)
    assert total == "arrived after 12.3 s"
    assert downtime == "downtime 250 ms (by libvirt)"
    assert stopped.startswith("stopped for about 261 ms (estimated from ")
    assert away.startswith("52:54:00:00:00:02 had no VF for 9.9 s")
    assert traffic == "52:54:00:00:00:02 carries traffic (17 frames sent by the guest)"
