# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of results and the summary at the end of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.testbed.report import FAILED, PASSED, Record

# How many columns are left between two columns of the table.
GAP = 2


@dataclass(frozen=True)
class Column:
    """A column of the table. Where the terminal is too narrow, those of the highest rank are left out."""

    title: str
    rank: int
    text: Callable[[Record], str]
    right: bool = False


def vfs(record: Record) -> str:
    """The guest's VF on the source and on the destination, without the PCI domain."""
    both = [address.replace("0000:", "") for address in (record.source_vf, record.destination_vf) if address]
    return " → ".join(both) or "-"


def vlans(record: Record) -> str:
    """The VLAN on both hosts, once when it is the same."""
    both = [str(tag) for tag in (record.source_vlan, record.destination_vlan) if tag is not None]
    return " → ".join(dict.fromkeys(both)) or "-"


def pings(record: Record) -> str:
    """How many pings were lost of how many."""
    return f"{record.pings_lost}/{record.pings_sent}" if record.pings_sent else "-"


def left_behind(record: Record) -> int:
    """How many things the scenario left behind on the hosts."""
    return sum(len(items) for kinds in record.left_behind.values() for items in kinds.values())


def milliseconds(value: Optional[float]) -> str:
    """A duration, or a dash."""
    return "-" if value is None else f"{value:.0f} ms"


COLUMNS: Sequence[Column] = (
    Column("scenario", 0, lambda record: record.name),
    Column("outcome", 0, lambda record: record.outcome),
    Column("took", 0, lambda record: f"{record.seconds:.0f} s", right=True),
    Column("VF", 2, vfs),
    Column("VLAN", 6, vlans),
    Column("downtime", 1, lambda record: milliseconds(record.downtime_ms), right=True),
    Column("silence", 3, lambda record: milliseconds(record.longest_silence_ms), right=True),
    Column("lost", 4, pings, right=True),
    Column("left", 5, lambda record: str(left_behind(record) or "-"), right=True),
)


def show(console: Console, records: Sequence[Record], earlier: Collection[str] = ()) -> None:
    """Print the table, why scenarios failed, and a line that sums it up.

    `earlier` has the names of scenarios that passed in an earlier run and did not run in this one.
    """
    console.print()
    console.print(table(records, earlier, console.width))
    for record in records:
        if record.why:
            console.print(f"[red]{record.name}[/red]: {escape(record.why)}", soft_wrap=True)
    console.print(summary(records, earlier), soft_wrap=True)


def table(records: Sequence[Record], earlier: Collection[str], width: int) -> Table:
    """The table of results, with those columns that have room in `width`; no cell is cut or wrapped."""
    made = Table(title="Results", title_justify="left", box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    columns = fitting(COLUMNS, records, earlier, width)
    for column in columns:
        made.add_column(column.title, justify="right" if column.right else "left", no_wrap=True)
    for record in records:
        made.add_row(*(styled(column, record, earlier) for column in columns))
    return made


def fitting(
    columns: Sequence[Column], records: Sequence[Record], earlier: Collection[str], width: int
) -> list[Column]:
    """The columns that have room in `width`; those of rank 0 are always there."""
    chosen = list(columns)
    while needed(chosen, records, earlier) > width:
        worst = max(chosen, key=lambda column: column.rank)
        if worst.rank == 0:
            break
        chosen.remove(worst)
    return chosen


def needed(columns: Sequence[Column], records: Sequence[Record], earlier: Collection[str]) -> int:
    """How wide a table with these columns is."""
    widths = [
        max(len(column.title), *(len(cell(column, record, earlier)) for record in records))
        if records
        else len(column.title)
        for column in columns
    ]
    return sum(widths) + GAP * (len(widths) - 1)


def cell(column: Column, record: Record, earlier: Collection[str]) -> str:
    """The text in a column of the table."""
    text = column.text(record)
    return f"{text} earlier" if column.title == "outcome" and record.name in earlier else text


def styled(column: Column, record: Record, earlier: Collection[str]) -> str:
    """The text in a column of the table, in its colour."""
    text = cell(column, record, earlier)
    if column.title != "outcome":
        return escape(text)
    return f"[{'green' if record.outcome == PASSED else 'red'}]{text}[/]"


def summary(records: Sequence[Record], earlier: Collection[str] = ()) -> str:
    """How many scenarios passed, which failed, and how long the run took."""
    failed = [record.name for record in records if record.outcome == FAILED]
    passed = sum(record.outcome == PASSED for record in records)
    took = sum(record.seconds for record in records if record.name not in earlier)
    text = f"{passed} of {len(records)} scenarios passed in {duration(took)}"
    if earlier:
        text += f", {len(earlier)} of them in an earlier run"
    return f"{text}; failed: {', '.join(failed)}" if failed else text


def duration(seconds: float) -> str:
    """A time in minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
