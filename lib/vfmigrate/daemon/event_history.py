# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host's journal has of one migration: the daemon's entries, and those of the command.

The journal is read by journalctl, which knows how its files are rotated and compressed. Every user can write entries
with any field: so only what root wrote counts as the daemon's, and everything else as the command's.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from vfmigrate import deadline, locks
from vfmigrate.deadline import Door
from vfmigrate.domain import trace_mark
from vfmigrate.errors import HostError, UsageError
from vfmigrate.journal import COMMAND, IDENTIFIER
from vfmigrate.rpc.protocol import Request

SCHEMA = 1
#: the most entries of an answer; a migration has about twenty
MOST_ENTRIES = 500

_DOOR = Door("journalctl", "see: journalctl --verify")
_SECONDS = 15.0
_PREFIX = "VFMIGRATE_"
_LONGEST_NAME = 255
#: entries of the guest by which its last migration is found
_MOST_SEARCHED = 2000
#: events that say that a guest migrates: others have a trace ID too, also of a guest that is just shut down
_MIGRATES = frozenset({"migrate", "migration-begun", "arrived", "resumed-migrated"})
#: why libvirt released a guest that has migrated; "-" before libvirt 10.5
_LEFT = frozenset({"migrated", "-"})
_MOST_MS = 1 << 53


class EventHistory:
    """Reads entries from the journal; `directory` is that of its files, by default the host's."""

    def __init__(self, directory: Optional[Path] = None, *, program: str = "journalctl") -> None:
        self._words = [program, "--quiet", "--no-pager", "--output=json", "--all"]
        if directory is not None:
            self._words.append(f"--directory={directory}")

    def answer(self, request: Request) -> dict[str, Any]:
        """Answer the request `trace`: by `trace`, an ID, or by `guest`, whose last migration is meant.

        With `uuid`, `since` and `until` (in ms) it also has what happened to this guest between these times. With
        `pool` it answers only about a guest that has VFs of this pool. Raises UsageError, HostError.
        """
        trace, guest = request.optional_text("trace"), request.optional_text("guest")
        if trace is None and guest is not None and 0 < len(guest) <= _LONGEST_NAME:
            trace = self._last_of(guest)
        elif trace is None or not trace_mark.is_id(trace):
            raise UsageError("request 'trace' needs 'trace', a trace ID, or 'guest', a name or UUID")
        events = self._events(request, trace) if trace is not None else []
        pool = request.optional_text("pool")
        if pool is not None and not any(pool in event["fields"].get("pool", "").split() for event in events):
            events = []
        return {"schema": SCHEMA, "host": socket.gethostname(), "time": time.time(), "events": events}

    def _events(self, request: Request, trace: str) -> list[dict[str, Any]]:
        matches = _alternatives([f"{_PREFIX}TRACE={trace}"])
        entries = list(self._read(matches, MOST_ENTRIES))
        uuid = request.optional_text("uuid")
        since, until = (request.optional_number(key, 0, _MOST_MS) for key in ("since", "until"))
        if uuid is not None and since is not None and until is not None:
            period = [f"--since=@{since / 1000:.3f}", f"--until=@{until / 1000:.3f}"]
            entries += self._read([*period, *_alternatives([f"{_PREFIX}UUID={uuid}"])], MOST_ENTRIES)
        # an entry of another migration in the same period belongs to that one
        own = {entry["__CURSOR"]: entry for entry in entries if entry.get(f"{_PREFIX}TRACE", trace) == trace}
        return sorted(map(_event, own.values()), key=lambda event: float(event["time"]))[:MOST_ENTRIES]

    def _last_of(self, guest: str) -> Optional[str]:
        """The ID of the last migration of a guest from here or to here, which may not have ended."""
        matches = _alternatives([f"{_PREFIX}DOMAIN={guest}"], [f"{_PREFIX}UUID={guest}"])
        for entry in self._read(["--reverse", *matches], _MOST_SEARCHED):
            trace, event = entry.get(f"{_PREFIX}TRACE"), entry.get(f"{_PREFIX}EVENT")
            left = event == "release" and entry.get(f"{_PREFIX}REASON") in _LEFT
            if isinstance(trace, str) and trace_mark.is_id(trace) and (event in _MIGRATES or left):
                return trace
        return None

    def _read(self, matches: Sequence[str], most: int) -> Iterator[Mapping[str, Any]]:
        """The newest entries that match. Raises HostError when journalctl fails or takes too long."""
        locks.may_take_long("reads the journal")
        try:
            with deadline.waiting(_DOOR, _SECONDS) as seconds:
                done = subprocess.run(
                    [*self._words, f"--lines={most}", *matches],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=seconds,
                    check=False,
                )
        except subprocess.TimeoutExpired as error:
            raise _DOOR.silent(error.timeout) from None
        except OSError as error:
            raise HostError(f"cannot run {self._words[0]}: {error}") from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise HostError(f"{self._words[0]} failed: {said[-1] if said else done.returncode}", _DOOR.remedy)
        for line in done.stdout.splitlines():
            entry = json.loads(line)
            yield {key: _text(value) for key, value in entry.items()}


def _alternatives(*guests: Sequence[str]) -> list[str]:
    """Matches of journalctl for entries of the daemon and of the command with one of these sets of fields."""
    writers = ([f"SYSLOG_IDENTIFIER={IDENTIFIER}", "_UID=0"], [f"SYSLOG_IDENTIFIER={COMMAND}"])
    words: list[str] = []
    for writer in writers:
        for fields in guests:
            words += [*(["+"] if words else []), *writer, *fields]
    return words


def _text(value: object) -> str:
    """A value of journalctl's JSON: what is not UTF-8 or not printable is a list of bytes, a repeated field a list."""
    if isinstance(value, list) and all(isinstance(each, int) for each in value):
        return bytes(value).decode(errors="replace")
    if isinstance(value, list):
        return _text(value[-1])
    return str(value)


def _event(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry as in the answer."""
    # the sender's own time when the journal knows it: reception can lag on a busy host
    moment = entry.get("_SOURCE_REALTIME_TIMESTAMP", entry["__REALTIME_TIMESTAMP"])
    fields = {
        key[len(_PREFIX) :].lower(): value
        for key, value in entry.items()
        if key.startswith(_PREFIX) and key != f"{_PREFIX}EVENT"
    }
    return {
        "time": int(moment) / 1e6,
        "program": entry.get("SYSLOG_IDENTIFIER", ""),
        "event": entry.get(f"{_PREFIX}EVENT", ""),
        "text": entry.get("MESSAGE", ""),
        "level": int(entry.get("PRIORITY", "6")),
        "fields": fields,
    }
