# SPDX-License-Identifier: GPL-2.0-or-later
"""The log: one entry for each event, with fields by which an administrator can filter.

Entries go to systemd's journal in its native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/), so that
`journalctl -t vfmigrated VFMIGRATE_DOMAIN=guest1` works; without a journal they are lines on standard error.
Domain XML is never logged: it can contain passwords.

A journal that does not read, stopped or stuck on its disk, must not stop the daemon: an entry that it does not take is
counted and lost, and the count is logged when it reads again.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Callable, Optional, Union

from vfmigrate.errors import VfmigrateError
from vfmigrate.events import table
from vfmigrate.text import printable, say

SOCKET = Path("/run/systemd/journal/socket")
IDENTIFIER = "vfmigrated"
#: the identifier of the command's entries
COMMAND = "vfmigrate"

ERROR = 3
WARNING = 4
INFO = 6
DEBUG = 7

Value = Union[str, int, float]

# How long the first entry waits for a journal that does not read, in seconds; a burst of entries may fill its queue for
# a moment. Those after it do not wait, until one was taken.
_PATIENCE = 0.2
# The most guests whose trace is known: more than run on a host, and a bound on what a guest that comes and goes takes.
_MOST_TRACES = 4096


#: the failures logged by the work in this context, where somebody collects them
_collected: ContextVar[Optional[list[VfmigrateError]]] = ContextVar("failures", default=None)


@contextlib.contextmanager
def failures() -> Iterator[list[VfmigrateError]]:
    """The failures that the work in this context logs, in order: for the caller, which must report them.

    Another thread has no part in it, unless its work runs in a copy of the context.
    """
    collected: list[VfmigrateError] = []
    token = _collected.set(collected)
    try:
        yield collected
    finally:
        _collected.reset(token)


def encode(fields: dict[str, str]) -> bytes:
    """One journal entry: `NAME=value` lines, or length-prefixed where a value has a line break."""
    parts = []
    for name, text in fields.items():
        data = text.encode("utf-8", "replace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class Traces:
    """Which migration a guest is in: the ID that entries about it get on both hosts (domain/trace_mark.py)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        #: by the UUID of the guest: the ID, and until when it holds by `clock`; None: until further notice
        self._traces: OrderedDict[str, tuple[str, Optional[float]]] = OrderedDict()

    def follow(self, uuid: str, trace: Optional[str]) -> None:
        """From now on entries about a guest have this trace ID; None: no longer any."""
        with self._lock:
            self._traces.pop(uuid, None)
            if trace is not None:
                self._traces[uuid] = (trace, None)
            if len(self._traces) > _MOST_TRACES:
                self._traces.popitem(last=False)

    def end_soon(self, uuid: str, seconds: float) -> bool:
        """The migration of a guest is over, so entries about it keep their trace ID for `seconds`; false if it was."""
        with self._lock:
            known = self._traces.get(uuid)
            if known is None or known[1] is not None:
                return False
            self._traces[uuid] = (known[0], self._clock() + seconds)
            return True

    def under_way(self, uuid: str) -> Optional[str]:
        """The trace ID of a migration that is not over, None without one."""
        with self._lock:
            trace, until = self._traces.get(uuid, (None, None))
            return trace if until is None else None

    def of(self, uuid: object) -> Optional[str]:
        """The trace ID of entries about a guest, None without one."""
        with self._lock:
            trace, until = self._traces.get(str(uuid), (None, None))
            if until is not None and self._clock() > until:
                del self._traces[str(uuid)]
                return None
            return trace


class Journal:
    """Writes entries to the journal's socket, or to standard error where there is none."""

    def __init__(self, path: Path = SOCKET, identifier: str = IDENTIFIER, *, aloud: bool = True) -> None:
        """`aloud`: without a journal, entries are lines on standard error; else they are lost."""
        self.traces = Traces()
        self._identifier = identifier
        self._aloud = aloud
        self._lock = threading.Lock()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_PATIENCE)
        self._connected = self._connect()
        self._lost = 0

    def event(
        self, name: str, message: str, *, kind: Optional[str] = None, level: int = INFO, **fields: Value
    ) -> None:
        """Log the event `name` with a message; `fields` become VFMIGRATE_<FIELD>.

        `kind` is its row in the table of kinds (events/table.py), by default that of its name. An entry with the field
        `uuid` gets the trace ID of this guest, unless it names one.
        """
        message = printable(" ".join(message.split()))
        row = table.find(kind or name)
        trace = self.traces.of(fields["uuid"]) if "uuid" in fields and "trace" not in fields else None
        entry = {
            "MESSAGE": message,
            **({"MESSAGE_ID": row.message_id} if row is not None else {}),
            "PRIORITY": str(level),
            "SYSLOG_IDENTIFIER": self._identifier,
            "VFMIGRATE_EVENT": name,
            **({"VFMIGRATE_TRACE": trace} if trace is not None else {}),
            **{f"VFMIGRATE_{key.upper()}": str(value) for key, value in fields.items()},
        }
        with self._lock:
            self._log(entry, f"<{level}>{name}: {message}")

    def failed(
        self,
        name: str,
        error: VfmigrateError,
        *,
        about: str = "",
        kind: Optional[str] = None,
        level: int = WARNING,
        **fields: Value,
    ) -> None:
        """Log as the event `name` what failed where nothing can be raised; `about` says what it is about.

        Whoever collects `failures` gets the error.
        """
        error = error.about(about)
        collected = _collected.get()
        if collected is not None:
            collected.append(error)
        self.event(name, str(error), kind=kind, level=level, **fields)

    def _log(self, entry: dict[str, str], line: str) -> None:
        try:
            if not self._send(encode(entry)):
                self._print(line)
        except BlockingIOError:
            self._lost += 1
            self._socket.setblocking(False)
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self._socket.settimeout(_PATIENCE)
            text = f"{lost} log entries were lost: the journal did not read them"
            kind = table.find("log-lost")
            message_id = {"MESSAGE_ID": kind.message_id} if kind is not None else {}
            own = {"MESSAGE": text, "VFMIGRATE_EVENT": "log-lost", "PRIORITY": str(WARNING), **message_id}
            self._log({"SYSLOG_IDENTIFIER": self._identifier, **own}, text)

    def _print(self, line: str) -> None:
        if not self._aloud:
            return
        try:
            writable = bool(select.select([], [sys.stderr], [], 0)[1])
        except (OSError, ValueError):  # no file of the kernel's: it cannot block
            writable = True
        if not writable:
            raise BlockingIOError
        say(line, file=sys.stderr)

    def _connect(self) -> bool:
        try:
            self._socket.connect(str(self._path))
        except OSError:
            return False
        return True

    def _send(self, entry: bytes) -> bool:
        """Send an entry; False where there is no journal, or none that takes it.

        Raises BlockingIOError where there is one that does not read.
        """
        if self._connected:
            try:
                self._socket.send(entry)
                return True
            except (BlockingIOError, socket.timeout):
                raise BlockingIOError from None
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    return False
        # a journal that was restarted has another socket at the same place
        self._connected = self._connect()
        try:
            return self._connected and self._socket.send(entry) > 0
        except (BlockingIOError, socket.timeout):
            raise BlockingIOError from None
        except OSError:
            return False

    def attempt(self, name: str, work: Callable[[], object]) -> None:
        """Do one piece of a thread's work and log its failure, so that the thread goes on with the next.

        An error of ours is logged as the event `name`, any other as a bug.
        """
        try:
            work()
        except VfmigrateError as error:
            self.failed(name, error)
        except Exception as error:  # noqa: BLE001 - logged as a bug
            self.bug(error)

    def bug(self, error: BaseException) -> str:
        """Log an unexpected exception with its place in the code; returns the message.

        The text of the exception is left out: it can quote domain XML.
        """
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
        text = f"vfmigrated has a bug: {type(error).__name__} at {place}"
        self.event("bug", text, level=ERROR)
        return text

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
