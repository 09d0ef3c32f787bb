# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate trace DOMAIN|ID [DESTURI...]`: what both hosts logged of one migration, in order."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Callable

from vfmigrate.cli import common_options, tables
from vfmigrate.cli.tables import Width
from vfmigrate.domain import trace_mark
from vfmigrate.errors import Refused, VfmigrateError
from vfmigrate.migrate import timeline
from vfmigrate.migrate.timeline import HostTrace, Timeline
from vfmigrate.rpc import protocol
from vfmigrate.text import command, complain, say_json

_SECONDS = 40.0

#: asks one host's daemon, with the arguments of the request
Ask = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    purpose = "show what happened on both hosts during a guest's last migration, in order"
    verb = verbs.add_parser("trace", help=purpose, description=purpose)
    verb.add_argument(
        "domain", metavar="DOMAIN", help="name or UUID of a guest, or the trace ID of a migration"
    )
    verb.add_argument("hosts", nargs="*", metavar="DESTURI", help="libvirt connection to another host")
    common_options.add_json(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask this host and the others, print; 0 if the migration was found."""
    with ExitStack() as stack:
        asks: dict[str, Ask] = {
            "this host": lambda wanted: protocol.ask("trace", wanted, path=options.socket, timeout=_SECONDS)
        }
        for uri in options.hosts:
            asks[uri] = _remote(stack, uri)
        found = collect(asks, options.domain)
    if options.json:
        say_json(found.plain())
    else:
        tables.show(lambda width: lines(found, width))
    return 0


def _remote(stack: ExitStack, uri: str) -> Ask:
    # a command line is parsed without libvirt-python as well
    from vfmigrate.rpc.remote_client import RemoteClient  # noqa: PLC0415 - libvirt
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    connection = stack.enter_context(LibvirtConnection(uri))
    client = RemoteClient(connection.network_metadata(), connection.hostname())
    return lambda wanted: client.ask("trace", wanted, timeout=_SECONDS)


def collect(asks: Mapping[str, Ask], wanted: str) -> Timeline:
    """The timeline of a migration: by its ID, or the last one of a guest. Raises Refused when no host knows it.

    A host that does not answer is reported, and the timeline has what the others know.
    """
    by_guest = {"guest": wanted}
    hosts = _ask_all(asks, {"trace": wanted} if trace_mark.is_id(wanted) else by_guest)
    trace = timeline.trace_of(hosts)
    if trace is None and trace_mark.is_id(wanted):
        hosts = _ask_all(asks, by_guest)  # a guest whose name looks like an ID
        trace = timeline.trace_of(hosts)
    if trace is None:
        raise Refused(
            f"the journals have no migration of guest '{wanted}'",
            f"name the other host too: {command('vfmigrate', 'trace', wanted)} qemu+ssh://HOST/system",
        )
    first = timeline.build(trace, hosts)
    # Again, now with what happened to the guest in this time without being known as a part of its migration; and on a
    # host that was asked for the guest's last migration and has had another since.
    since, until = first.period_ms()
    again = {"trace": trace, "uuid": first.uuid, "since": since, "until": until}
    return timeline.build(trace, _ask_all(asks, again))


def _ask_all(asks: Mapping[str, Ask], wanted: Mapping[str, Any]) -> list[HostTrace]:
    """The answers of all hosts that answer. Raises what the first one raised when none does."""
    failures: list[VfmigrateError] = []
    found: list[HostTrace] = []

    def one(ask: Ask) -> HostTrace:
        before = time.time()
        answer = ask(wanted)
        return timeline.read(answer, before, time.time())

    with ThreadPoolExecutor(len(asks)) as lanes:
        for name, lane in [(name, lanes.submit(one, ask)) for name, ask in asks.items()]:
            try:
                found.append(lane.result())
            except VfmigrateError as error:
                failures.append(error)
                complain("vfmigrate", f"{name}: {error}")
    if not found:
        raise failures[0]
    return found


def lines(found: Timeline, width: Width) -> Iterator[str]:
    """The lines for a reader."""
    way = f" from {found.source or 'an unknown host'} to {found.destination}" if found.destination else ""
    downtime = f", downtime {found.downtime_ms} ms" if found.downtime_ms is not None else ""
    yield from tables.wrapped(f"migration {found.trace} of guest '{found.guest}'{way}{downtime}", width)
    for host, ahead in found.clocks.items():
        direction = "ahead" if ahead > 0 else "behind"
        yield from tables.wrapped(f"the clock of {host} is {abs(ahead):.1f} s {direction}; corrected", width)
    if not found.events:
        return
    begun = found.events[0].time
    day = time.strftime("%Y-%m-%d", time.localtime(begun))
    rows = [(day, "SECONDS", "HOST", "EVENT", "")]
    for event in found.events:
        at = time.strftime("%H:%M:%S", time.localtime(event.time)) + f".{int(event.time * 1000) % 1000:03d}"
        rows.append((at, f"{event.time - begun:7.3f}", event.host, event.event, event.text))
    yield from tables.table(rows, width)
