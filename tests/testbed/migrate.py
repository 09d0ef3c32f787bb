# SPDX-License-Identifier: GPL-2.0-or-later
"""Run `vfmigrate migrate` on a test host, as an administrator or a program does."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from tests.testbed import report
from tests.testbed.guest import Guest
from tests.testbed.host import Host, HostError
from tests.testbed.timeline import clock_offset

MIGRATION_S = 240

_OUT, _ERROR, _STATUS = "/run/migrate.out", "/run/migrate.err", "/run/migrate.status"
_TERMINAL = Path(__file__).with_name("on_terminal.py")
#: control sequences of a terminal: colours, and movements of the cursor
_COLOURS = re.compile(r"\x1b\[[0-9;?]*m")
_MOVES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(frozen=True)
class Told:
    """How the command ended, and its events. It began at `began`, seconds of this machine's clock."""

    status: int
    error: str
    events: list[dict[str, Any]]
    began: float = 0.0

    def event(self, name: str) -> Optional[dict[str, Any]]:
        """The last event of this name."""
        return next((event for event in reversed(self.events) if event["event"] == name), None)

    def at_ms(self, name: str) -> Optional[float]:
        """When the last event of this name came, in ms after the beginning."""
        event = self.event(name)
        return round(event["at"] * 1000, 1) if event is not None else None


def command(guest: Guest, destination: Host, *options: str) -> str:
    """The command line."""
    words = ("vfmigrate", "migrate", *options, guest.name, f"qemu+tcp://{destination.hostname}/system")
    return shlex.join(words)


def events(output: str) -> list[dict[str, Any]]:
    """The events in what the command wrote; a line that is not complete yet is left out."""
    whole = output[: output.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]


class Running:
    """The command under way, with events."""

    def __init__(self, source: Host, guest: Guest, destination: Host, *options: str) -> None:
        self._source = source
        self.began = time.time()
        line = command(guest, destination, "--json", *options)
        script = f"{line} > {_OUT} 2> {_ERROR}; echo $? > {_STATUS}"
        source.run(f"rm -f {_STATUS}; setsid sh -c {shlex.quote(script)} < /dev/null > /dev/null 2>&1 &")

    def events(self) -> list[dict[str, Any]]:
        """The events so far."""
        return events(self._source.result(f"cat {_OUT}").stdout)

    def await_event(self, name: str, timeout: float = 60, **facts: Any) -> dict[str, Any]:
        """Wait for an event with these facts. Raises HostError when the command ends without, or it takes too long."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for event in self.events():
                if event["event"] == name and facts.items() <= event.items():
                    return event
            if self._ended():
                break
            time.sleep(0.2)
        raise HostError(f"vfmigrate migrate has no event '{name}': {self.error()}")

    def _ended(self) -> bool:
        return self._source.result(f"cat {_STATUS}").stdout.endswith("\n")

    def error(self) -> str:
        """What it wrote to its standard error."""
        return " ".join(self._source.result(f"cat {_ERROR}").stdout.split())

    def interrupt(self) -> None:
        """Interrupt it as Ctrl-C does."""
        self._source.run("kill -INT $(pgrep -f '[p]ython3 .*vfmigrate migrate --json')")

    def finish(self, timeout: float = MIGRATION_S) -> Told:
        """Wait for the end."""
        deadline = time.monotonic() + timeout
        while not self._ended():
            if time.monotonic() > deadline:
                raise HostError(f"vfmigrate migrate does not end within {timeout:.0f} s")
            time.sleep(0.3)
        status = int(self._source.run(f"cat {_STATUS}"))
        return Told(status, self.error(), self.events(), self.began)


def migrate(source: Host, guest: Guest, destination: Host, *options: str) -> Told:
    """Run the command with JSON output to its end."""
    offset = clock_offset(source)
    line = command(guest, destination, "--json", *options)
    result = source.result(f"date +%s.%N >&2; exec {line}", MIGRATION_S)
    began, _, error = result.stderr.partition("\n")
    return Told(result.status, " ".join(error.split()), events(result.stdout), float(began) - offset)


def on_terminal(
    source: Host, guest: Guest, destination: Host, *options: str, press_at: str = ""
) -> tuple[int, str]:
    """Run it on a terminal; returns its status and what was shown, a line for each change.

    `press_at`: a text at which Ctrl-C is pressed. The recording is kept as build/testbed/terminal/GUEST.txt.
    """
    source.write("/root/on_terminal.py", _TERMINAL.read_text())
    line = command(guest, destination, *options)
    shown = "/run/terminal"
    result = source.result(
        f"python3 /root/on_terminal.py {shown} {shlex.quote(press_at)} {line}", MIGRATION_S
    )
    text = recording(source.run(f"cat {shown}"))
    folder = report.BUILD / "terminal"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{guest.name}.txt").write_text(text)
    return result.status, text


def recording(raw: str) -> str:
    """What a terminal has shown, as plain text: a line for each change."""
    lines: list[str] = []
    for line in _MOVES.sub("\n", _COLOURS.sub("", raw)).splitlines():
        if line.strip() and line.rstrip() not in lines[-4:]:
            lines.append(line.rstrip())
    return "\n".join(lines) + "\n"
