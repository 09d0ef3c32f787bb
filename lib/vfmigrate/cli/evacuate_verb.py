# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate evacuate`: migrates the running guests of this host to other hosts, several at once.

`evacuate.planner` decides, `evacuate.runner` drives, `migrate` migrates each guest; here are the command line, the
connections to the hosts, and the output. It works through libvirt with the user's own rights.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.cli import common_options, display, keyboard, migrate_verb, tables
from vfmigrate.domain import domain_xml
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Cancelled, Refused, UsageError, VfmigrateError
from vfmigrate.evacuate import planner, runner
from vfmigrate.evacuate.planner import Destination, EvacuatingGuest, Plan, VfRequirement
from vfmigrate.evacuate.runner import Arrival, DestinationRefused, Evacuation, GuestResult
from vfmigrate.model import host_facts
from vfmigrate.model.host_facts import HostFacts
from vfmigrate.model.progress import Progress
from vfmigrate.rpc import protocol
from vfmigrate.rpc.remote_client import RemoteClient
from vfmigrate.text import complain

if TYPE_CHECKING:
    from vfmigrate.virt.connection import LibvirtConnection

JOBS = 4


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    purpose = "migrate all running guests of this host to other hosts, several at once"
    verb = verbs.add_parser("evacuate", help=purpose, description=purpose)
    verb.add_argument("desturi", nargs="+", metavar="DESTURI", help="libvirt connection to a destination")
    common_options.add_connect(verb)
    verb.add_argument("--only", action="append", metavar="DOMAIN", help="only this guest; can be repeated")
    verb.add_argument(
        "--jobs",
        type=common_options.positive,
        default=JOBS,
        metavar="N",
        help="how many guests migrate at the same time (default: %(default)s)",
    )
    common_options.add_dry_run(verb, "show the plan; migrate nothing")
    common_options.add_json(verb, common_options.EVENTS)
    migrate_verb.add_pace(verb)
    verb.set_defaults(run=_evacuate)


# -- the guests and hosts


def read_guest(xml: str, here: Optional[HostFacts]) -> EvacuatingGuest:
    """What the plan needs to know of a running guest. Raises InputError."""
    guest = domain_xml.read(xml)
    vfs = []
    for interface in guest.interfaces:
        mark = interface.mark or Mark()
        pf, pool = _pf_and_pool(guest.uuid, interface.wanted_mac, str(interface.address), here)
        if interface.form == "network" and mark.pool is None:
            continue  # an interface of a network without VFs
        vfs.append(
            VfRequirement(
                pool=mark.pool or pool,
                mac=interface.wanted_mac,
                with_state=interface.strategy.state_travels,
                vlans=(*mark.trunks, *([mark.vlan] if mark.vlan is not None else [])),
                pf=pf,
                mark=mark,
            )
        )
    return EvacuatingGuest(guest.uuid, guest.name, tuple(vfs), guest.memory_kib // 1024)


def _pf_and_pool(
    uuid: str, mac: Optional[str], address: str, here: Optional[HostFacts]
) -> tuple[Optional[str], Optional[str]]:
    """The PF and pool of a guest's VF on this host, by the daemon's facts."""
    for pool in here.pools if here is not None else ():
        for pf in pool.pfs:
            for vf in pf.vfs:
                if vf.address == address or (mac is not None and (vf.guest, vf.mac) == (uuid, mac)):
                    return pf.address, pool.name
    return None, None


@dataclass(frozen=True)
class _DestinationHost:
    name: str
    uri: str
    connection: LibvirtConnection

    def observe(self) -> Destination:
        """The destination now. Without an answer of its daemon, only guests without VFs can migrate there."""
        try:
            facts = host_facts.read(
                RemoteClient(self.connection.network_metadata(), self.name).ask("facts", {})
            )
        except VfmigrateError as error:
            return Destination(
                self.name, self.uri, problem=str(error), memory_mib=self.connection.free_memory_mib()
            )
        return Destination(self.name, self.uri, facts, memory_mib=self.connection.free_memory_mib())


class _Hosts:
    """This host and the destinations, and migrations between them."""

    def __init__(
        self,
        options: argparse.Namespace,
        destination_hosts: Sequence[_DestinationHost],
        output: _Output,
    ) -> None:
        self._options = options
        self._destinations = {each.name: each for each in destination_hosts}
        self._output = output

    def observe(self) -> tuple[Optional[HostFacts], Sequence[Destination]]:
        """See runner.EvacuationHosts."""
        return here(self._options), [each.observe() for each in self._destinations.values()]

    def migrate(
        self, guest: EvacuatingGuest, destination: Destination, cancelled: threading.Event
    ) -> Arrival:
        """See runner.EvacuationHosts."""
        from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

        shown = _GuestDisplay(self._output, guest)
        try:
            # Connections of its own: on one connection, libvirt allows one callback for each kind of event.
            with (
                LibvirtConnection(self._options.connect) as source,
                LibvirtConnection(destination.uri) as there,
            ):
                persistent = source.is_persistent(guest.uuid)
                request = migrate_verb.request_of(self._options, destination.uri, guest.uuid)
                defined = replace(request.options, persistent=persistent, undefine_source=persistent)
                report = migrate_verb.run(replace(request, options=defined), source, there, shown, cancelled)
        except Cancelled:
            raise
        except VfmigrateError as error:
            if shown.copying:
                raise
            raise DestinationRefused(error) from None
        return Arrival(report.downtime_ms, tuple(report.problems))

    def event(self, event: str, guest: EvacuatingGuest, destination: str, text: str) -> None:
        """See runner.EvacuationHosts."""
        self._output.event(
            event, f"{guest.name}: {text}", domain=guest.name, uuid=guest.uuid, destination=destination
        )


def here(options: argparse.Namespace) -> Optional[HostFacts]:
    """The facts of this host's daemon; None if none answers, as on a host without VFs."""
    try:
        return host_facts.read(protocol.ask("facts", {}, path=options.socket))
    except VfmigrateError:
        return None


# -- output


class _Output:
    """Plain lines or JSON events, written by several threads."""

    def __init__(self, *, as_json: bool) -> None:
        self._display = display.JsonDisplay() if as_json else display.LineDisplay()
        self._lock = threading.Lock()

    def event(self, event: str, text: str, **facts: Any) -> None:
        """Show an event."""
        with self._lock:
            self._display.event(event, text, **facts)


class _GuestDisplay:
    """The display of one guest's migration among others."""

    def __init__(self, output: _Output, guest: EvacuatingGuest) -> None:
        self._output = output
        self._guest = guest
        #: memory is being copied: the destination did not refuse
        self.copying = False

    def event(self, event: str, text: str, /, **facts: Any) -> None:
        """Show an event with the guest's name."""
        if event == "begin":  # the evacuation has shown it
            return
        guest = {"domain": self._guest.name, "uuid": self._guest.uuid}
        self._output.event(event, f"{self._guest.name}: {text}", **{**facts, **guest})

    def progress(self, now: Progress, _allowed_ms: int, /) -> None:
        """Not shown: several at once would be unreadable."""
        self.copying = self.copying or now.total > 0


def plan_rows(guests: Sequence[EvacuatingGuest], plan: Plan) -> Iterator[tuple[str, ...]]:
    """The plan as a table."""
    yield ("GUEST", "VFS", "DESTINATION")
    for guest in guests:
        where = plan.moves.get(guest.uuid) or f"stays: {plan.obstacles[guest.uuid]}"
        yield (guest.name, vfs_of(guest), where)


def result_rows(results: Sequence[GuestResult]) -> Iterator[tuple[str, ...]]:
    """The results as a table."""
    yield ("GUEST", "VFS", "RESULT", "HOST", "SECONDS", "DOWNTIME", "")
    for result in results:
        moved = result.outcome == runner.MOVED
        downtime = f"{result.downtime_ms:.0f} ms" if result.downtime_ms is not None else "-"
        seconds = f"{result.seconds:.1f}" if result.tried else "-"
        where = (result.destination if moved else None) or "-"
        yield (
            result.guest.name,
            vfs_of(result.guest),
            result.outcome,
            where,
            seconds,
            downtime,
            "; ".join(result.problems),
        )


def vfs_of(guest: EvacuatingGuest) -> str:
    """The number of VFs of each pool, in words."""
    counts = [f"{number} {pool}" if number > 1 else pool for pool, number in sorted(guest.pools.items())]
    return ", ".join(counts) or "-"


def plain_plan(guests: Sequence[EvacuatingGuest], plan: Plan) -> list[dict[str, Any]]:
    """The plan as plain values."""
    return [
        {
            "domain": guest.name,
            "uuid": guest.uuid,
            "vfs": [{"mac": vf.mac, "pool": vf.pool, "travels": vf.with_state} for vf in guest.vfs],
            "destination": plan.moves.get(guest.uuid),
            "obstacle": plan.obstacles.get(guest.uuid),
        }
        for guest in guests
    ]


def plain_results(results: Sequence[GuestResult]) -> list[dict[str, Any]]:
    """The results as plain values."""
    return [
        {
            "domain": result.guest.name,
            "uuid": result.guest.uuid,
            "outcome": result.outcome,
            "destination": result.destination if result.outcome == runner.MOVED else None,
            "tried": result.tried,
            "seconds": round(result.seconds, 3),
            "downtime_ms": result.downtime_ms,
            "problems": list(result.problems),
            "error": protocol.plain(result.error) if result.error is not None else None,
        }
        for result in results
    ]


# -- the verb


def _evacuate(options: argparse.Namespace) -> int:
    # a command line is parsed without libvirt-python as well
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    migrate_verb.check_options(options)
    output = _Output(as_json=options.json)
    with ExitStack() as stack:
        source = stack.enter_context(LibvirtConnection(options.connect))
        destination_hosts = _connect(options.desturi, source, stack)
        hosts = _Hosts(options, destination_hosts, output)
        now, destinations = hosts.observe()
        guests = [read_guest(xml, now) for xml in _chosen(source.running(options.only), options.only)]
        if now is None and any(guest.vfs for guest in guests):
            protocol.ask("facts", {}, path=options.socket)  # raises the reason
        plan = planner.plan(guests, destinations)
        width = None if options.json else tables.width()
        lines = (
            list(tables.table([*plan_rows(guests, plan)], width))
            if guests
            else ["no guest runs on this host"]
        )
        output.event("plan", "\n".join(lines), guests=plain_plan(guests, plan))
        if options.dry_run or not guests:
            return Refused.exit_code if plan.obstacles else 0
        with keyboard.interruptible() as cancelled:
            results = Evacuation(hosts, cancelled, now, destinations, options.jobs).run(guests, plan)
    lines = ["", *tables.table([*result_rows(results)], width)]
    output.event("end", "\n".join(lines), guests=plain_results(results))
    return status(results)


def status(results: Sequence[GuestResult]) -> int:
    """The exit status; prints problems on standard error."""
    stayed = [result for result in results if result.outcome != runner.MOVED]
    amiss = [result.guest.name for result in results if result.outcome == runner.MOVED and result.problems]
    if stayed:
        names = ", ".join(result.guest.name for result in stayed)
        complain("vfmigrate", f"not moved: {names}; run the command again to retry")
    if amiss:
        complain("vfmigrate", f"moved with problems: {', '.join(amiss)}")
    error = next((result.error for result in stayed if result.error is not None), None)
    if error is not None:
        return error.exit_code
    return Refused.exit_code if stayed or amiss else 0


def _connect(uris: Sequence[str], source: LibvirtConnection, stack: ExitStack) -> list[_DestinationHost]:
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    taken = {source.hostname(): "is this host"}
    found = []
    for uri in uris:
        connection = stack.enter_context(LibvirtConnection(uri))
        name = connection.hostname()
        if name in taken:
            raise UsageError(f"{uri} {taken[name]}")
        taken[name] = f"is {name}, which is given twice"
        found.append(_DestinationHost(name, uri, connection))
    return found


def _chosen(running: Mapping[str, str], only: Optional[Sequence[str]]) -> list[str]:
    """The XML of the guests to migrate; `running` has that of those that run, by name."""
    for name in only or ():
        if name not in running:
            raise Refused(f"no guest '{name}' runs on this host", "see: virsh list")
    return [xml for name, xml in sorted(running.items()) if only is None or name in only]
