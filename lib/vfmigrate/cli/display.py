# SPDX-License-Identifier: GPL-2.0-or-later
"""What a migration shows while it runs: a bar on a terminal, plain lines elsewhere, or events for programs.

rich draws the bar; where it is not installed, a terminal gets the plain lines.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional, TextIO

from vfmigrate.migrate.convergence import mib
from vfmigrate.model.progress import Progress

if TYPE_CHECKING:
    from vfmigrate.model.progress import Display

#: of the events that --json writes, told in docs/migrate.md
SCHEMA = 1

#: seconds between two plain lines, and between two events, that tell of progress
_LINE_PERIOD = 5.0
_EVENT_PERIOD = 1.0


def described(now: Progress, allowed_ms: int) -> list[str]:
    """The figures of a moment, each in words."""
    told = [f"{mib(now.remaining)} of {mib(now.total)} memory left"]
    if now.disk_total:
        told.append(f"{mib(now.disk_remaining)} of {mib(now.disk_total)} disks left")
    if now.vf_state is not None:
        told.append(f"VF state {mib(now.vf_state)}")
    told.append(f"{mib(now.rate)}/s")
    if now.dirty_rate:
        told.append(f"guest writes {mib(now.dirty_rate)}/s")
    if now.expected_downtime is not None:
        told.append(f"downtime about {now.expected_downtime} ms ({allowed_ms} allowed)")
    return told


class Lines:
    """Plain lines."""

    def __init__(self, file: Optional[TextIO] = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file or sys.stdout
        self._clock = clock
        self._next = 0.0

    def _print(self, text: str) -> None:
        print(text, file=self._file, flush=True)

    def tell(self, _event: str, text: str, /, **_facts: Any) -> None:
        """Print what happened."""
        self._print(text)

    def progress(self, now: Progress, allowed_ms: int, /) -> None:
        """Print how far it is, now and then."""
        if self._clock() >= self._next:
            self._next = self._clock() + _LINE_PERIOD
            part = f"pass {now.iteration}, {now.part:.0%}"
            self._print(", ".join([part, *described(now, allowed_ms)]))


class Events:
    """A JSON object on a line of its own for each event."""

    def __init__(self, file: Optional[TextIO] = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file or sys.stdout
        self._clock = clock
        self._begun = clock()
        self._next = 0.0

    def tell(self, event: str, text: str, /, **facts: Any) -> None:
        """Write an event."""
        at = round(self._clock() - self._begun, 3)
        told = {"schema": SCHEMA, "event": event, "at": at, "text": text, **facts}
        print(json.dumps(told), file=self._file, flush=True)

    def progress(self, now: Progress, allowed_ms: int, /) -> None:
        """Write how far it is, about once a second."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + _EVENT_PERIOD
        self.tell(
            "progress",
            ", ".join(described(now, allowed_ms)),
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
def shown(*, as_json: bool) -> Iterator[Display]:
    """The display that suits standard output."""
    if as_json:
        yield Events()
        return
    if sys.stdout.isatty():
        try:
            from vfmigrate.cli.progress_bar import bar  # noqa: PLC0415 - rich is not needed without a terminal, nor always there
        except ImportError:
            pass
        else:
            with bar() as display:
                yield display
            return
    yield Lines()
