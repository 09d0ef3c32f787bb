# SPDX-License-Identifier: GPL-2.0-or-later
"""The timeline of one migration, of what the journals of both hosts have of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from vfmigrate.errors import InputError
from vfmigrate.model import from_json

#: what is still told of a guest before its first and after its last entry with the trace ID, in ms
MARGIN_MS = 3000


@dataclass(frozen=True)
class TraceEvent:
    """One entry of a journal, as in the daemon's answer; `time` is in seconds since 1970, by the clock of its host."""

    time: float
    program: str
    event: str
    text: str
    level: int = 6
    host: str = ""


@dataclass(frozen=True)
class HostTrace:
    """What one host has of a migration, and by how many seconds its clock is ahead, which may be off by `error`."""

    host: str
    events: tuple[TraceEvent, ...] = ()
    fields: tuple[Mapping[str, str], ...] = ()
    ahead: float = 0.0
    error: float = 0.0

    @property
    def correction(self) -> float:
        """What is subtracted from its times: nothing while its clock can be right."""
        return self.ahead if abs(self.ahead) > self.error else 0.0


def read(answer: Mapping[str, Any], before: float, after: float) -> HostTrace:
    """A daemon's answer; it was asked at `before` and had answered at `after`. Raises InputError."""
    what = "the answer to the request 'trace'"
    events, fields = [], []
    for raw in answer.get("events", ()):
        if not isinstance(raw, Mapping) or not isinstance(raw.get("fields"), Mapping):
            raise InputError(f"{what} has no fields")
        event = from_json.read(TraceEvent, {key: raw[key] for key in raw if key != "fields"}, what)
        events.append(replace(event, host=str(answer.get("host", ""))))
        fields.append({str(key): str(value) for key, value in raw["fields"].items()})
    clock = answer.get("time")
    if not isinstance(clock, (int, float)):
        raise InputError(f"{what} has no time")
    return HostTrace(
        host=str(answer.get("host", "")),
        events=tuple(events),
        fields=tuple(fields),
        ahead=clock - (before + after) / 2,
        error=(after - before) / 2,
    )


@dataclass(frozen=True)
class Timeline:
    """One migration of one guest, by the clock of this host."""

    trace: str
    guest: str
    uuid: str
    events: tuple[TraceEvent, ...] = ()
    source: Optional[str] = None
    destination: Optional[str] = None
    downtime_ms: Optional[int] = None
    #: by how many seconds the clock of a host is ahead, where that was corrected
    clocks: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The timeline as `vfmigrate trace --json` prints it."""
        return {
            "schema": 1,
            **{key: value for key, value in vars(self).items() if key != "events"},
            "events": [dict(vars(event)) for event in self.events],
        }

    def period_ms(self) -> tuple[int, int]:
        """From when to when it took, with a margin, in ms since 1970."""
        times = [event.time for event in self.events]
        return int(min(times) * 1000) - MARGIN_MS, int(max(times) * 1000) + MARGIN_MS


def trace_of(hosts: Iterable[HostTrace]) -> Optional[str]:
    """The ID of the newest migration of which one of the hosts has entries; None when none has any."""
    newest = {
        entry["trace"]: event.time - host.correction
        for host in hosts
        for event, entry in zip(host.events, host.fields)
        if "trace" in entry
    }
    return max(newest, key=lambda trace: newest[trace], default=None)


def build(trace: str, hosts: Sequence[HostTrace]) -> Timeline:
    """The timeline of the migration `trace`; entries that two answers have are in it once."""
    known = [entry for host in hosts for entry in host.fields if entry.get("trace") == trace]
    events = {
        replace(event, time=event.time - host.correction): None
        for host in hosts
        for event, entry in zip(host.events, host.fields)
        if entry.get("trace", trace) == trace
    }
    arrivals = [
        (host, entry) for host in hosts for entry in _named(host, "migrate") if entry.get("trace") == trace
    ]
    downtime = _first(known, "downtime_ms")
    return Timeline(
        trace=trace,
        guest=_first(known, "domain") or "",
        uuid=_first(known, "uuid") or "",
        events=tuple(sorted(events, key=lambda event: event.time)),
        source=next((entry["source"] for _, entry in arrivals if "source" in entry), None),
        destination=arrivals[-1][0].host if arrivals else None,
        downtime_ms=int(downtime) if downtime is not None and downtime.isdigit() else None,
        clocks={host.host: round(host.ahead, 3) for host in hosts if host.correction},
    )


def _named(host: HostTrace, name: str) -> Iterator[Mapping[str, str]]:
    return (entry for event, entry in zip(host.events, host.fields) if event.event == name)


def _first(entries: Iterable[Mapping[str, str]], key: str) -> Optional[str]:
    return next((entry[key] for entry in entries if entry.get(key)), None)
