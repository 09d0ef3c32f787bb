# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate failover enable|disable|show`: what the administrator asks, and what is shown of it.

Works on the persistent definition, through libvirt with the user's own rights; asks nothing of the daemon.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.config import setting
from vfmigrate.domain import domain_xml
from vfmigrate.errors import InputError, Refused, VfmigrateError
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.rules import failover_pair
from vfmigrate.strategies.failover import definition, live_pair
from vfmigrate.strategies.failover.definition import Wish
from vfmigrate.strategies.failover.live_pair import Halves

if TYPE_CHECKING:
    from vfmigrate.virt.running_guest import RunningGuest
    from vfmigrate.virt.session import Session

_SECRET = re.compile(r"(passwd=)('[^']*'|\"[^\"]*\")")
# What a guest is given for letting go of a device and for taking one, in seconds.
_PATIENCE, _LONGEST_PATIENCE = 30, 600
_NETDEVS = Path("/sys/class/net")


def add(verbs: Any) -> None:
    """Add the verb and its sub-verbs to a parser's."""
    told = "give a VF a virtio interface that stands by while the guest migrates"
    verb = verbs.add_parser("failover", help=told, description=told)
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")

    told = "make a failover pair of a VF and a new virtio interface with its MAC"
    action = actions.add_parser("enable", help=told, description=told)
    _add_common(action, changes=True)
    where = action.add_mutually_exclusive_group(required=True)
    where.add_argument("--standby-bridge", metavar="BR", help="the bridge that the standby is plugged into")
    where.add_argument("--standby-network", metavar="NET", help="the libvirt network of the standby")
    action.add_argument(
        "--vlan", type=vlan, metavar="N", help="VLAN tag of the standby; default: as the VF's metadata says"
    )
    action.add_argument(
        "--switch",
        choices=("openvswitch", "linux"),
        help="what kind of bridge it is; default: what this host's bridge of that name is",
    )
    action.add_argument(
        "--live",
        action="store_true",
        help="in the running guest as well: plug the standby in, unplug the VF and plug it in as the other half",
    )
    action.add_argument(
        "--wait",
        type=_seconds,
        default=_PATIENCE,
        metavar="SECONDS",
        help="with --live: what the guest is given for each step; default: %(default)s",
    )
    action.add_argument("--alias", metavar="ua-NAME", help="alias of the standby; default: made of the MAC")
    action.set_defaults(run=_enable)

    told = "take the standby away again, and leave the VF as it was"
    action = actions.add_parser("disable", help=told, description=told)
    _add_common(action, changes=True)
    action.set_defaults(run=_disable)

    told = "show the failover pairs of a guest, and what is wrong with them"
    action = actions.add_parser("show", help=told, description=told)
    _add_common(action, changes=False)
    action.add_argument("--json", action="store_true", help="for programs")
    action.set_defaults(run=_show)


def _add_common(action: argparse.ArgumentParser, *, changes: bool) -> None:
    action.add_argument("domain", metavar="DOMAIN", help="name or UUID of the guest")
    action.add_argument(
        "-c", "--connect", metavar="URI", help="libvirt connection; default: as virsh chooses it"
    )
    if changes:
        action.add_argument("--mac", help="MAC of the VF; needed when the guest has more than one")
        action.add_argument("--dry-run", action="store_true", help="show the difference, and change nothing")
        action.add_argument("--json", action="store_true", help="for programs")


def _session(options: argparse.Namespace) -> Session:
    from vfmigrate.virt.session import Session  # noqa: PLC0415 - a command line is parsed without libvirt-python as well

    return Session(options.connect)


def _seconds(text: str) -> int:
    try:
        return int(setting.number(1, _LONGEST_PATIENCE).read(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(error.problem) from None


def vlan(text: str) -> int:
    """A VLAN on the command line."""
    try:
        return int(setting.number(1, setting.MAX_VLAN).read(text))
    except InputError as error:
        raise argparse.ArgumentTypeError(error.problem) from None


def difference(before: str, after: str) -> str:
    """What changes in a definition, for a terminal: no passwords."""
    old, new = (_SECRET.sub(r"\1'***'", text).splitlines() for text in (before, after))
    return "\n".join(difflib.unified_diff(old, new, "before", "after", n=2, lineterm=""))


def _is_openvswitch(bridge: str) -> bool:
    """Whether this host's bridge of that name is one of Open vSwitch: a Linux bridge has a directory of that name."""
    device = _NETDEVS / bridge
    if not device.exists():
        raise Refused(
            f"there is no bridge '{bridge}' on this host", "make it first, or say what it is with --switch"
        )
    return not (device / "bridge").is_dir()


def _enable(options: argparse.Namespace) -> int:
    with _session(options) as session:
        if options.standby_network is not None:
            openvswitch = session.is_openvswitch_network(options.standby_network)
        elif options.switch is not None:
            openvswitch = options.switch == "openvswitch"
        else:
            openvswitch = _is_openvswitch(options.standby_bridge)
        wish = Wish(
            options.mac,
            options.standby_bridge,
            options.standby_network,
            openvswitch,
            options.vlan,
            options.alias,
        )
        networks = session.hostdev_networks()
        before = session.definition(options.domain)
        after = definition.enable(before, wish, networks)
        live = _live(session, options, wish, networks) if options.live else None
        changed = _change(session, options, before, after, also=live is not None)
        if live is not None and not options.dry_run:
            _make_live(session, options, live, before)
        if changed:
            kept = session.definition(options.domain)
            noted = definition.note_controllers(before, kept)
            if noted != kept:
                session.define(noted)
            _tell_when(session, options)
        _tell_program(session, options, before, after, live=live is not None)
    return 0


def _live(
    session: Session, options: argparse.Namespace, wish: Wish, networks: Collection[str]
) -> Optional[tuple[RunningGuest, Halves]]:
    """The running guest and what it is to get; None when it has the pair. Raises Refused when it cannot get it."""
    from vfmigrate.virt.running_guest import RunningGuest  # noqa: PLC0415 - as for the session

    if not session.is_local():
        raise Refused(
            "--live looks at the VF on the host of its guest, and the connection is to another host",
            "run it there",
        )
    guest = RunningGuest(session.running_domain(options.domain), Sysfs(), patience=options.wait)
    halves = definition.live_halves(guest.xml(), wish, networks)
    return None if halves is None else (guest, halves)


def _make_live(
    session: Session, options: argparse.Namespace, live: tuple[RunningGuest, Halves], before: str
) -> None:
    """Make the pair in the running guest; the definition goes back to `before` when that fails."""
    guest, halves = live
    try:
        live_pair.make(guest, halves)
    except VfmigrateError:
        session.define(before)
        raise
    _say(
        options,
        f"guest '{guest.name}' has taken its VF as half of the pair; "
        "its addresses belong on the device that joins both, which is new",
    )


def _disable(options: argparse.Namespace) -> int:
    with _session(options) as session:
        before = session.definition(options.domain)
        after = definition.disable(before, options.mac)
        if _change(session, options, before, after):
            _tell_when(session, options)
        _tell_program(session, options, before, after, live=False)
    return 0


def _say(options: argparse.Namespace, text: str) -> None:
    """For a reader; a program is told all of it at the end."""
    if not options.json:
        print(text)


def _tell_program(
    session: Session, options: argparse.Namespace, before: str, after: str, *, live: bool
) -> None:
    if options.json:
        told = {
            "schema": 1,
            "difference": difference(before, after),
            "running": session.is_running(options.domain),
            "live": live,
            "dry_run": options.dry_run,
        }
        print(json.dumps(told, indent=2))


def _change(
    session: Session, options: argparse.Namespace, before: str, after: str, *, also: bool = False
) -> bool:
    """Show a change and make it; False when there was none to make, which is told unless there is `also` another."""
    if before == after:
        if not also:
            _say(options, "nothing to do")
        return False
    _say(options, difference(before, after))
    if options.dry_run:
        _say(options, "nothing changed (--dry-run)")
        return False
    session.define(after)
    return True


def _tell_when(session: Session, options: argparse.Namespace) -> None:
    if getattr(options, "live", False):
        _say(options, "defined; the guest has it now, and at its next boot")
    elif session.is_running(options.domain):
        _say(options, "defined; takes effect at the guest's next boot: shut it down and start it again")
    else:
        _say(options, "defined; takes effect at the guest's next boot")


def _show(options: argparse.Namespace) -> int:
    with _session(options) as session:
        told = described(session.definition(options.domain))
    if options.json:
        print(json.dumps({"schema": 1, "pairs": told}, indent=2))
        return 0
    for each in told:
        place = f"{each['kind']} {each['source']}" if each["standby"] else "no standby"
        vlan = f", VLAN {each['vlan']}" if each["vlan"] is not None else ""
        print(f"{each['mac']}: {place}{vlan}, alias {each['alias']}")
        if each["problem"]:
            print(f"  {each['problem']}")
    if not told:
        print("no failover pair")
    return 0


def described(xml: str) -> list[dict[str, Any]]:
    """The pairs of a definition as plain values, with what is wrong in `problem`."""
    guest = domain_xml.read(xml)
    told = []
    for vf in guest.interfaces:
        if vf.teaming != "transient":
            continue
        standby = next((each for each in guest.standbys if each.alias == vf.standby), None)
        problem = None
        try:
            failover_pair.pair_of(guest, vf)
        except VfmigrateError as error:
            problem = str(error)
        told.append(
            {
                "mac": vf.wanted_mac,
                "alias": vf.standby,
                "standby": standby is not None,
                "kind": standby.kind if standby else None,
                "source": standby.source if standby else None,
                "vlan": standby.vlan if standby else None,
                "problem": problem,
            }
        )
    return told
