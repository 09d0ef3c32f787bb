# SPDX-License-Identifier: GPL-2.0-or-later
"""A migration's progress on a terminal, drawn by rich, which is imported here and nowhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vfmigrate.cli.display import described
from vfmigrate.model.progress import Progress

_BAR_WIDTH = 30


class Bar:
    """A bar with the figures below it; what happens is printed above."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def tell(self, _event: str, text: str, /, **_facts: Any) -> None:
        """Print what happened above the bar."""
        self._live.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def progress(self, now: Progress, allowed_ms: int, /) -> None:
        """Draw how far it is."""
        self._live.update(drawn(now, allowed_ms))


def drawn(now: Progress, allowed_ms: int) -> Group:
    """The bar and its figures."""
    head = Table.grid(padding=(0, 1))
    head.add_row(
        f"pass {max(now.iteration, 1)}",
        ProgressBar(total=1.0, completed=now.part, width=_BAR_WIDTH),
        f"{now.part:4.0%}  {now.elapsed:.0f} s",
    )
    return Group(head, Text(", ".join(described(now, allowed_ms)), style="dim"))


@contextlib.contextmanager
def bar() -> Iterator[Bar]:
    """A bar on standard output; it is gone again when the context ends."""
    with Live(console=Console(), transient=True, refresh_per_second=4, redirect_stderr=False) as live:
        yield Bar(live)
