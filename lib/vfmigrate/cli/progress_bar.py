# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration's progress bar on a terminal, rendered by rich, which is imported here only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vfmigrate.cli import progress_text
from vfmigrate.model.progress import Progress
from vfmigrate.text import printable

_BAR_WIDTH = 30
# rich's own colour of a bar is red, which looks like a failure.
_WELL = "green"


class BarDisplay:
    """A bar with the figures below it; events are printed above it."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def event(self, _event: str, text: str, /, **_facts: Any) -> None:
        """Print an event above the bar."""
        self._live.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def progress(self, now: Progress, allowed_ms: int, /) -> None:
        """Draw the progress."""
        self._live.update(rendered(now, allowed_ms))


def rendered(now: Progress, allowed_ms: int) -> Table:
    """The bar and its figures."""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        f"pass {max(now.iteration, 1)}",
        ProgressBar(
            total=1.0, completed=now.part, width=_BAR_WIDTH, complete_style=_WELL, finished_style=_WELL
        ),
        f"{now.part:4.0%}  {now.elapsed:.0f} s",
    )
    both = Table.grid()  # Group has this name since rich 10.13
    both.add_row(head)
    both.add_row(Text(", ".join(progress_text.figures(now, allowed_ms)), style="dim"))
    return both


@contextlib.contextmanager
def bar() -> Iterator[BarDisplay]:
    """A bar on standard output; it is removed when the context ends."""
    with Live(console=Console(), transient=True, refresh_per_second=4, redirect_stderr=False) as live:
        yield BarDisplay(live)
