# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person sees: a line for each long step, and the timeline of a migration."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Callable

from rich.console import Console
from rich.rule import Rule
from rich.table import Table

from tests.testbed.timeline import Event

# Progress must be seen when it is made, in a pipe too.
if isinstance(sys.stdout, io.TextIOWrapper):
    sys.stdout.reconfigure(line_buffering=True)

# The width of a terminal is known. In a file or a pipe nothing is cut or wrapped.
RULE_WIDTH = 80
console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=1000)

HOST_STYLES = {"a": "cyan", "b": "magenta", "peer": "yellow", "virsh": "white"}


# Called with the title and the error of a step that fails, while everything is still as the step left it.
FailureHook = Callable[[str, BaseException], None]
_failure_hooks: list[FailureHook] = []


@contextmanager
def on_failure(hook: FailureHook) -> Iterator[None]:
    """Have `hook` called for each step in the block that fails."""
    _failure_hooks.append(hook)
    try:
        yield
    finally:
        _failure_hooks.remove(hook)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show that a step is going on, and then how long it took."""
    begun = time.monotonic()
    try:
        with console.status(f"{title} …"):
            yield
    except BaseException as error:
        say(f"[red]✘[/red] {title} [dim]{time.monotonic() - begun:.1f} s[/dim]")
        if isinstance(error, Exception):
            for hook in _failure_hooks:
                hook(title, error)
        raise
    say(f"[green]✔[/green] {title} [dim]{time.monotonic() - begun:.1f} s[/dim]")


def heading(text: str) -> None:
    """Begin a part of the output."""
    console.print()
    console.print(Rule(f"[bold]{text}[/bold]", align="left"), width=RULE_WIDTH)


def timeline(title: str, events: Sequence[Event]) -> None:
    """The events of a migration, in milliseconds from its start."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_edge=False)
    table.add_column("ms", justify="right")
    table.add_column("where")
    table.add_column("event", no_wrap=True)
    table.add_column("what", overflow="fold")
    for event in events:
        style = HOST_STYLES.get(event.where, "white")
        table.add_row(f"{event.ms:.0f}", f"[{style}]{event.where}[/{style}]", event.name, event.message)
    console.print(table)


def say(text: str) -> None:
    """Print a line; a terminal wraps it, and a file has it as one line."""
    console.print(text, soft_wrap=True)
