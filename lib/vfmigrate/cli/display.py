# SPDX-License-Identifier: GPL-2.0-or-later
"""The displays of a migration that runs: a progress bar on a terminal, plain lines elsewhere, or JSON events.

rich draws the bar; without it, a terminal shows the plain lines.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional, TextIO

from vfmigrate.cli import progress_text
from vfmigrate.model.progress import Progress
from vfmigrate.text import say, say_json

if TYPE_CHECKING:
    from vfmigrate.model.progress import Display

#: version of the events that --json writes (docs/migrate.md)
SCHEMA = 1

#: seconds between two plain lines, and between two events, with the progress
_LINE_PERIOD = 5.0
_EVENT_PERIOD = 1.0


class LineDisplay:
    """Plain lines."""

    def __init__(self, file: Optional[TextIO] = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file or sys.stdout
        self._clock = clock
        self._next = 0.0

    def _print(self, text: str) -> None:
        say(text, file=self._file)

    def event(self, _event: str, text: str, /, **_facts: Any) -> None:
        """Print what happened."""
        self._print(text)

    def progress(self, now: Progress, allowed_ms: int, /) -> None:
        """Print the progress every few seconds."""
        if self._clock() >= self._next:
            self._next = self._clock() + _LINE_PERIOD
            part = f"pass {now.iteration}, {now.part:.0%}"
            self._print(", ".join([part, *progress_text.figures(now, allowed_ms)]))


class JsonDisplay:
    """A JSON object on its own line for each event."""

    def __init__(self, file: Optional[TextIO] = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file or sys.stdout
        self._clock = clock
        self._begun = clock()
        self._next = 0.0

    def event(self, event: str, text: str, /, **facts: Any) -> None:
        """Write an event."""
        at = round(self._clock() - self._begun, 3)
        line = {"schema": SCHEMA, "event": event, "at": at, "text": text, **facts}
        say_json(line, indent=None, file=self._file)

    def progress(self, now: Progress, allowed_ms: int, /) -> None:
        """Write the progress about once a second."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + _EVENT_PERIOD
        self.event(
            "progress",
            ", ".join(progress_text.figures(now, allowed_ms)),
            iteration=now.iteration,
            memory_total=now.total,
            memory_remaining=now.remaining,
            disk_total=now.disk_total,
            disk_remaining=now.disk_remaining,
            vf_state=now.vf_state,
            rate=now.rate,
            dirty_rate=now.dirty_rate,
            expected_downtime_ms=now.expected_downtime,
            allowed_downtime_ms=allowed_ms,
        )


@contextlib.contextmanager
def displayed(*, as_json: bool) -> Iterator[Display]:
    """The display that suits standard output."""
    if as_json:
        yield JsonDisplay()
        return
    if sys.stdout.isatty():
        try:
            from vfmigrate.cli.progress_bar import bar  # noqa: PLC0415 - rich is optional, and needed on a terminal only
        except ImportError:
            pass
        else:
            with bar() as display:
                yield display
            return
    yield LineDisplay()
