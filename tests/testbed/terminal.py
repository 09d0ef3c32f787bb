# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person sees: a line for each long step, the timeline of a migration, the table of results."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Optional

from rich.console import Console
from rich.table import Table

from tests.testbed.report import Record
from tests.testbed.timeline import Event

# Progress must be seen when it is made, in a pipe too.
if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(line_buffering=True)

# A terminal tells its width; a file or a pipe takes what the table of results needs.
console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=130)

HOST_STYLES = {"a": "cyan", "b": "magenta", "peer": "yellow", "virsh": "white"}


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show that a step is going on, and then how long it took."""
    begun = time.monotonic()
    try:
        with console.status(f"{title} …"):
            yield
    except BaseException:
        console.print(f"[red]✘[/red] {title} [dim]{time.monotonic() - begun:.1f} s[/dim]")
        raise
    console.print(f"[green]✔[/green] {title} [dim]{time.monotonic() - begun:.1f} s[/dim]")


def heading(text: str) -> None:
    """Begin a part of the output."""
    console.print()
    console.rule(f"[bold]{text}[/bold]", align="left")


def timeline(title: str, events: Sequence[Event]) -> None:
    """The events of a migration, in milliseconds from its start."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_edge=False)
    table.add_column("ms", justify="right")
    table.add_column("where")
    table.add_column("event")
    table.add_column("what", overflow="fold")
    for event in events:
        style = HOST_STYLES.get(event.where, "white")
        table.add_row(f"{event.ms:.0f}", f"[{style}]{event.where}[/{style}]", event.name, event.message)
    console.print(table)


def results(records: Sequence[Record]) -> None:
    """The table of results, and why a scenario failed."""
    table = Table(title="Results", title_justify="left")
    for name in (
        "scenario",
        "outcome",
        "VF",
        "VLAN",
        "downtime",
        "longest silence",
        "pings lost",
        "left behind",
        "took",
    ):
        table.add_column(name, justify="right" if name in {"downtime", "longest silence", "took"} else "left")
    for record in records:
        table.add_row(*cells(record))
    console.print()
    console.print(table)
    for record in records:
        if record.why:
            console.print(f"[red]{record.name}[/red]: {record.why}", soft_wrap=True)


def cells(record: Record) -> list[str]:
    """A row of the table of results."""
    colour = "green" if record.outcome == "passed" else "red"
    moved = (
        f"{record.source_vf} → {record.destination_vf}" if record.destination_vf else record.source_vf or "-"
    )
    vlans = " → ".join(str(tag) for tag in (record.source_vlan, record.destination_vlan) if tag is not None)
    left = sum(len(items) for kinds in record.left_behind.values() for items in kinds.values())
    return [
        record.name,
        f"[{colour}]{record.outcome}[/{colour}]",
        moved.replace("0000:", ""),
        vlans or "-",
        milliseconds(record.downtime_ms),
        milliseconds(record.longest_silence_ms),
        f"{record.pings_lost} of {record.pings_sent}" if record.pings_sent else "-",
        str(left) if left else "nothing",
        f"{record.seconds:.0f} s",
    ]


def milliseconds(value: Optional[float]) -> str:
    """A duration, or a dash."""
    return "-" if value is None else f"{value:.0f} ms"
