# SPDX-License-Identifier: GPL-2.0-or-later
"""The timeline of a migration: what hook and daemon logged on both hosts, on one clock."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.testbed.host import Host

IDENTIFIER = "vfmigrated"
FIELD_PREFIX = "VFMIGRATE_"
CLOCK_SAMPLES = 3


@dataclass(frozen=True)
class Event:
    """Something that happened, `ms` milliseconds after the start of the migration."""

    ms: float
    where: str
    name: str
    message: str
    fields: dict[str, str] = field(default_factory=dict)


def clock_offset(host: Host) -> float:
    """How many seconds the host's clock is ahead of this machine's, by the quickest of a few samples."""
    samples = []
    for _ in range(CLOCK_SAMPLES):
        before = time.time()
        there = float(host.run("date +%s.%N"))
        after = time.time()
        samples.append((after - before, there - (before + after) / 2))
    return min(samples)[1]


def collect(hosts: Sequence[Host], since: float) -> list[Event]:
    """The events of both hosts since a moment of this machine's clock, in order."""

    def of(host: Host) -> list[Event]:
        offset = clock_offset(host)
        command = f"journalctl --no-pager -o json -t {IDENTIFIER} --since @{since + offset:.3f}"
        return parse(host.run(command), host.name, since + offset)

    with ThreadPoolExecutor() as lanes:
        events = [event for of_host in lanes.map(of, hosts) for event in of_host]
    return sorted(events, key=lambda event: event.ms)


def parse(text: str, where: str, since: float) -> list[Event]:
    """Events in journalctl's JSON lines; `since` is a moment of the same host's clock, in seconds."""
    events = []
    for line in text.splitlines():
        entry = json.loads(line)
        name = entry.get(f"{FIELD_PREFIX}EVENT")
        if name is None:
            continue
        fields = {
            key[len(FIELD_PREFIX) :].lower(): str(value)
            for key, value in entry.items()
            if key.startswith(FIELD_PREFIX) and key != f"{FIELD_PREFIX}EVENT"
        }
        # the sender's own time when the journal knows it: reception can lag on a busy host
        moment = int(entry.get("_SOURCE_REALTIME_TIMESTAMP", entry["__REALTIME_TIMESTAMP"])) / 1e6
        if moment >= since:
            events.append(Event((moment - since) * 1000, where, name, str(entry.get("MESSAGE", "")), fields))
    return events
