# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's lifecycle events on a namespace host, as a listener there sees them."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Optional

from tests.integration.hosts import Host, wait_for
from tests.integration.namespaces import signal_child

PRINTER = Path(__file__).with_name("event_printer.py")
PLACE = "/usr/local/lib/event_printer.py"


class Events:
    """The events of all guests of a host from entering the context on."""

    def __init__(self, host: Host) -> None:
        host.write(PLACE, PRINTER.read_text())
        self._name = host.name
        self._printer = host.spawn("python3", PLACE)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, name=f"events-{host.name}")

    def __enter__(self) -> Events:
        assert self._printer.stdout is not None
        assert self._printer.stderr is not None
        first = self._printer.stdout.readline()
        assert first == "ready\n", self._printer.stderr.read()
        self._reader.start()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        signal_child(self._printer, "KILL")
        self._reader.join()
        self._printer.communicate()

    def _read(self) -> None:
        assert self._printer.stdout is not None
        for line in self._printer.stdout:
            self._lines.append(line.strip())

    def seen(self) -> list[str]:
        """The events so far, as "event detail"."""
        return list(self._lines)

    def wait_for(self, *events: str) -> None:
        """Wait until one of these events has come."""
        wait_for(f"{' or '.join(events)} on {self._name}", lambda: not set(events).isdisjoint(self._lines))
