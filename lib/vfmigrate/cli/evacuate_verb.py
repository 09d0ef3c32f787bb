# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate evacuate`: migrates the running guests of this host to other hosts, several at once.

`evacuate.planner` decides, `evacuate.runner` drives, `migrate` migrates each guest; here are the command line, the
connections to the hosts, and the output. It works through libvirt with the user's own rights.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional

from lxml import etree

from vfmigrate.cli import display, keyboard, migrate_verb, tables
from vfmigrate.domain import domain_xml
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.migrating_vf import strategy
from vfmigrate.errors import Cancelled, Refused, UsageError, VfmigrateError
from vfmigrate.evacuate import planner, runner
from vfmigrate.evacuate.planner import Leaver, Place, Plan, VfNeed
from vfmigrate.evacuate.runner import Arrival, Evacuator, Fate, TurnedAway
from vfmigrate.model import host_facts
from vfmigrate.model.host_facts import HostFacts
from vfmigrate.model.progress import Progress
from vfmigrate.rpc import protocol

if TYPE_CHECKING:
    from vfmigrate.virt.session import Session

JOBS = 4


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    purpose = "migrate all running guests of this host to other hosts, several at once"
    verb = verbs.add_parser("evacuate", help=purpose, description=purpose)
    verb.add_argument("desturi", nargs="+", metavar="DESTURI", help="libvirt connection to a destination")
    verb.add_argument(
        "-c", "--connect", metavar="URI", help="this host's libvirt; default: the same as virsh"
    )
    verb.add_argument("--only", action="append", metavar="DOMAIN", help="only this guest; can be repeated")
    verb.add_argument(
        "--jobs",
        type=migrate_verb.number,
        default=JOBS,
        metavar="N",
        help="how many guests migrate at the same time (default: %(default)s)",
    )
    verb.add_argument("--dry-run", action="store_true", help="show the plan; migrate nothing")
    verb.add_argument("--json", action="store_true", help="print JSON, one event on each line")
    migrate_verb.add_pace(verb)
    verb.set_defaults(run=_evacuate)


# -- who leaves, and where to


def leaver(xml: str, here: Optional[HostFacts]) -> Leaver:
    """A running guest as the plan needs to know it. Raises InputError."""
    guest = domain_xml.read(xml)
    needs = []
    for interface in guest.interfaces:
        mark = interface.mark or Mark()
        pf, pool = _place_of(guest.uuid, interface.wanted_mac, str(interface.address), here)
        if interface.form == "network" and mark.pool is None:
            continue  # of a network that gives no VFs
        needs.append(
            VfNeed(
                pool=mark.pool or pool,
                mac=interface.wanted_mac,
                travels=strategy(interface) == "vfio",
                vlans=(*mark.trunks, *([mark.vlan] if mark.vlan is not None else [])),
                pf=pf,
                mark=mark,
            )
        )
    memory = etree.fromstring(xml.encode()).findtext("currentMemory") or "0"  # libvirt writes KiB
    return Leaver(guest.uuid, guest.name, tuple(needs), int(memory) // 1024)


def _place_of(
    uuid: str, mac: Optional[str], address: str, here: Optional[HostFacts]
) -> tuple[Optional[str], Optional[str]]:
    """PF and pool of a guest's VF on this host, as the daemon tells of them."""
    for pool in here.pools if here is not None else ():
        for pf in pool.pfs:
            for vf in pf.vfs:
                if vf.address == address or (mac is not None and (vf.guest, vf.mac) == (uuid, mac)):
                    return pf.address, pool.name
    return None, None


@dataclass(frozen=True)
class _Destination:
    name: str
    uri: str
    session: Session

    def look(self) -> Place:
        """What is there now; a daemon that does not answer keeps guests with VFs away, and no others."""
        from vfmigrate.rpc.remote_client import Remote  # noqa: PLC0415 - with libvirt-python

        try:
            told = host_facts.read(Remote(self.session.mailbox(), self.name).ask("facts", {}))
        except VfmigrateError as error:
            return Place(self.name, self.uri, problem=str(error), memory_mib=self.session.free_memory_mib())
        return Place(self.name, self.uri, told, memory_mib=self.session.free_memory_mib())


class _Hosts:
    """This host and the destinations, and how guests move between them."""

    def __init__(
        self,
        options: argparse.Namespace,
        destinations: Sequence[_Destination],
        screen: _Screen,
    ) -> None:
        self._options = options
        self._destinations = {each.name: each for each in destinations}
        self._screen = screen

    def look(self) -> tuple[Optional[HostFacts], Sequence[Place]]:
        """See evacuator.Ground."""
        return here(self._options), [each.look() for each in self._destinations.values()]

    def move(self, guest: Leaver, place: Place, cancelled: threading.Event) -> Arrival:
        """See evacuator.Ground."""
        from vfmigrate.virt.session import Session  # noqa: PLC0415 - with libvirt-python

        voice = _Voice(self._screen, guest)
        try:
            # Connections of its own: on one, libvirt takes a program's ear for a kind of event once only.
            with Session(self._options.connect) as source, Session(place.uri) as destination:
                for session in (source, destination):
                    session.keep_alive()
                persistent = source.is_persistent(guest.uuid)
                asked = {
                    **vars(self._options),
                    "domain": guest.uuid,
                    "desturi": place.uri,
                    "persistent": persistent,
                    "undefinesource": persistent,
                    "migrateuri": None,
                }
                report = migrate_verb.run(argparse.Namespace(**asked), source, destination, voice, cancelled)
        except Cancelled:
            raise
        except VfmigrateError as error:
            if voice.copying:
                raise
            raise TurnedAway(error) from None
        return Arrival(report.downtime_ms, tuple(report.problems))

    def tell(self, event: str, guest: Leaver, place: str, text: str) -> None:
        """See evacuator.Ground."""
        self._screen.tell(
            event, f"{guest.name} {text}", domain=guest.name, uuid=guest.uuid, destination=place
        )


def here(options: argparse.Namespace) -> Optional[HostFacts]:
    """What this host's daemon tells; None when there is none that answers, as on a host without VFs."""
    try:
        return host_facts.read(protocol.ask("facts", {}, path=options.socket))
    except VfmigrateError:
        return None


# -- what is shown


class _Screen:
    """Lines for a reader, or an event on each line for a program. Thread-safe."""

    def __init__(self, *, as_json: bool) -> None:
        self._display = display.JsonDisplay() if as_json else display.LineDisplay()
        self._lock = threading.Lock()

    def tell(self, event: str, text: str, **told: Any) -> None:
        """Something happened."""
        with self._lock:
            self._display.tell(event, text, **told)


class _Voice:
    """What is told of one guest's migration while others go on."""

    def __init__(self, screen: _Screen, guest: Leaver) -> None:
        self._screen = screen
        self._guest = guest
        #: memory has begun to be copied: the destination did not refuse
        self.copying = False

    def tell(self, event: str, text: str, /, **told: Any) -> None:
        """Something happened to it."""
        if event == "begin":  # told as one of an evacuation already
            return
        guest = {"domain": self._guest.name, "uuid": self._guest.uuid}
        self._screen.tell(event, f"{self._guest.name}: {text}", **{**told, **guest})

    def progress(self, now: Progress, _allowed_ms: int, /) -> None:
        """It goes on; with several at once nobody could follow how."""
        self.copying = self.copying or now.total > 0


def rows(guests: Sequence[Leaver], plan: Plan) -> Iterator[tuple[str, ...]]:
    """The plan as a table."""
    yield ("GUEST", "VFS", "DESTINATION")
    for guest in guests:
        where = plan.moves.get(guest.uuid) or f"stays: {plan.stuck[guest.uuid]}"
        yield (guest.name, vfs_of(guest), where)


def results(fates: Sequence[Fate]) -> Iterator[tuple[str, ...]]:
    """What became of the guests as a table."""
    yield ("GUEST", "VFS", "RESULT", "HOST", "SECONDS", "DOWNTIME", "")
    for fate in fates:
        moved = fate.outcome == runner.MOVED
        downtime = f"{fate.downtime_ms:.0f} ms" if fate.downtime_ms is not None else "-"
        seconds = f"{fate.seconds:.1f}" if fate.tried else "-"
        where = (fate.place if moved else None) or "-"
        yield (
            fate.guest.name,
            vfs_of(fate.guest),
            fate.outcome,
            where,
            seconds,
            downtime,
            "; ".join(fate.problems),
        )


def vfs_of(guest: Leaver) -> str:
    """How many VFs of which pool, in words."""
    told = [f"{number} {pool}" if number > 1 else pool for pool, number in sorted(guest.pools.items())]
    return ", ".join(told) or "-"


def told_plan(guests: Sequence[Leaver], plan: Plan) -> list[dict[str, Any]]:
    """The plan for programs."""
    return [
        {
            "domain": guest.name,
            "uuid": guest.uuid,
            "vfs": [{"mac": vf.mac, "pool": vf.pool, "travels": vf.travels} for vf in guest.vfs],
            "destination": plan.moves.get(guest.uuid),
            "obstacle": plan.stuck.get(guest.uuid),
        }
        for guest in guests
    ]


def told_fates(fates: Sequence[Fate]) -> list[dict[str, Any]]:
    """What became of the guests, for programs."""
    return [
        {
            "domain": fate.guest.name,
            "uuid": fate.guest.uuid,
            "outcome": fate.outcome,
            "destination": fate.place if fate.outcome == runner.MOVED else None,
            "tried": fate.tried,
            "seconds": round(fate.seconds, 3),
            "downtime_ms": fate.downtime_ms,
            "problems": list(fate.problems),
            "error": protocol.plain(fate.error) if fate.error is not None else None,
        }
        for fate in fates
    ]


# -- the verb


def _evacuate(options: argparse.Namespace) -> int:
    # a command line is parsed without libvirt-python as well
    from vfmigrate.virt.session import Session, run_events  # noqa: PLC0415 - with libvirt-python

    migrate_verb.check_options(options)
    run_events()
    screen = _Screen(as_json=options.json)
    with ExitStack() as stack:
        source = stack.enter_context(Session(options.connect))
        destinations = _destinations(options.desturi, source, stack)
        hosts = _Hosts(options, destinations, screen)
        now, places = hosts.look()
        guests = [leaver(xml, now) for xml in _chosen(source.running(), options.only)]
        if now is None and any(guest.vfs for guest in guests):
            protocol.ask("facts", {}, path=options.socket)  # raises why it does not answer
        plan = planner.plan(guests, places)
        width = None if options.json else tables.width()
        lines = list(tables.table([*rows(guests, plan)], width)) if guests else ["no guest runs on this host"]
        screen.tell("plan", "\n".join(lines), guests=told_plan(guests, plan))
        if options.dry_run or not guests:
            return Refused.exit_code if plan.stuck else 0
        with keyboard.interruptible() as cancelled:
            fates = Evacuator(hosts, cancelled, now, places, options.jobs).run(guests, plan)
    lines = ["", *tables.table([*results(fates)], width)]
    screen.tell("end", "\n".join(lines), guests=told_fates(fates))
    return status(fates)


def status(fates: Sequence[Fate]) -> int:
    """The exit status; what went wrong is said on standard error as well."""
    stayed = [fate for fate in fates if fate.outcome != runner.MOVED]
    amiss = [fate.guest.name for fate in fates if fate.outcome == runner.MOVED and fate.problems]
    if stayed:
        names = ", ".join(fate.guest.name for fate in stayed)
        print(f"vfmigrate: not moved: {names}; run the command again to retry", file=sys.stderr)
    if amiss:
        print(f"vfmigrate: moved with problems: {', '.join(amiss)}", file=sys.stderr)
    error = next((fate.error for fate in stayed if fate.error is not None), None)
    if error is not None:
        return error.exit_code
    return Refused.exit_code if stayed or amiss else 0


def _destinations(uris: Sequence[str], source: Session, stack: ExitStack) -> list[_Destination]:
    from vfmigrate.virt.session import Session  # noqa: PLC0415 - with libvirt-python

    source.keep_alive()
    taken = {source.hostname(): "is this host"}
    found = []
    for uri in uris:
        session = stack.enter_context(Session(uri))
        session.keep_alive()
        name = session.hostname()
        if name in taken:
            raise UsageError(f"{uri} {taken[name]}")
        taken[name] = f"leads to {name}, which is named already"
        found.append(_Destination(name, uri, session))
    return found


def _chosen(running: Mapping[str, str], only: Optional[Sequence[str]]) -> list[str]:
    """The XML of the guests that are to leave; `running` is all of it by name."""
    for name in only or ():
        if name not in running:
            raise Refused(f"no guest '{name}' runs on this host", "see: virsh list")
    return [xml for name, xml in sorted(running.items()) if only is None or name in only]
