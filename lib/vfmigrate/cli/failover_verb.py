# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate failover enable|disable|show`: failover pairs of a guest's VFs.

Works on the persistent definition, through libvirt with the user's own rights; does not need the daemon.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.cli import common_options, tables
from vfmigrate.domain import additions, domain_xml
from vfmigrate.errors import Refused, VfmigrateError
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.os_errors import exists
from vfmigrate.rules import failover_pair
from vfmigrate.strategies.failover import definition, live_pair
from vfmigrate.strategies.failover.definition import StandbyOptions
from vfmigrate.strategies.failover.live_pair import Halves
from vfmigrate.text import say, say_json

if TYPE_CHECKING:
    from vfmigrate.virt.connection import LibvirtConnection
    from vfmigrate.virt.running_guest import RunningGuest

_SECRET = re.compile(r"(passwd=)('[^']*'|\"[^\"]*\")")
# Seconds that a guest has to release a device, and to take one.
_PATIENCE, _LONGEST_PATIENCE = 30, 600
_NETDEVS = Path("/sys/class/net")


def add(verbs: Any) -> None:
    """Add the verb and its sub-verbs to a parser's."""
    purpose = "pair a VF with a virtio interface that carries its traffic while the guest migrates"
    verb = verbs.add_parser("failover", help=purpose, description=purpose)
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")

    purpose = "pair a VF with a new virtio interface that has the same MAC"
    action = actions.add_parser("enable", help=purpose, description=purpose)
    _add_common(action, changes=True)
    where = action.add_mutually_exclusive_group(required=True)
    where.add_argument("--standby-bridge", metavar="BR", help="bridge of the standby")
    where.add_argument("--standby-network", metavar="NET", help="libvirt network of the standby")
    action.add_argument(
        "--vlan",
        type=common_options.vlan,
        metavar="N",
        help="VLAN tag of the standby; default: the one in the VF's metadata",
    )
    action.add_argument(
        "--switch",
        choices=("openvswitch", "linux"),
        help="type of the bridge; default: the type of this host's bridge of that name",
    )
    action.add_argument(
        "--live",
        action="store_true",
        help="also change the running guest: plug the standby, unplug the VF and plug it as part of the pair",
    )
    action.add_argument(
        "--wait",
        type=common_options.number(1, _LONGEST_PATIENCE),
        default=_PATIENCE,
        metavar="SECONDS",
        help="with --live: time that the guest has for each step (default: %(default)s)",
    )
    action.add_argument(
        "--alias", metavar="ua-NAME", help="alias of the standby; default: derived from the MAC"
    )
    action.set_defaults(run=_enable)

    purpose = "remove the standby, and leave the VF as it was before"
    action = actions.add_parser("disable", help=purpose, description=purpose)
    _add_common(action, changes=True)
    action.set_defaults(run=_disable)

    purpose = "show the failover pairs of a guest and their problems"
    action = actions.add_parser("show", help=purpose, description=purpose)
    _add_common(action, changes=False)
    common_options.add_json(action)
    action.set_defaults(run=_show)


def _add_common(action: argparse.ArgumentParser, *, changes: bool) -> None:
    common_options.add_domain(action)
    common_options.add_connect(action)
    if changes:
        action.add_argument(
            "--mac", metavar="MAC", help="MAC of the VF; required if the guest has more than one VF"
        )
        common_options.add_dry_run(action)
        common_options.add_json(action)


def _connect(options: argparse.Namespace) -> LibvirtConnection:
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    return LibvirtConnection(options.connect)


def difference(before: str, after: str) -> str:
    """The unified diff of two definitions, with passwords hidden."""
    old, new = (_SECRET.sub(r"\1'***'", text).splitlines() for text in (before, after))
    return "\n".join(difflib.unified_diff(old, new, "before", "after", n=2, lineterm=""))


def _is_openvswitch(bridge: str) -> bool:
    """Whether this host's bridge is one of Open vSwitch: only a Linux bridge has a directory `bridge` in sysfs."""
    device = _NETDEVS / bridge
    if not exists(device):
        raise Refused(
            f"there is no bridge '{bridge}' on this host", "create it, or give its type with --switch"
        )
    return not exists(device / "bridge")


def _enable(options: argparse.Namespace) -> int:
    with _connect(options) as connection:
        if options.standby_network is not None:
            openvswitch = connection.is_openvswitch_network(options.standby_network)
        elif options.switch is not None:
            openvswitch = options.switch == "openvswitch"
        else:
            openvswitch = _is_openvswitch(options.standby_bridge)
        wish = StandbyOptions(
            options.mac,
            options.standby_bridge,
            options.standby_network,
            openvswitch,
            options.vlan,
            options.alias,
        )
        networks = connection.hostdev_networks()
        before = connection.definition(options.domain)
        after = definition.enable(before, wish, networks)
        live = _live(connection, options, wish, networks) if options.live else None
        changed = _change(connection, options, before, after, also=live is not None)
        if live is not None and not options.dry_run:
            _make_live(connection, options, live, before)
        if changed:
            define_noted(connection, options.domain, before)
            _print_when(connection, options)
        _print_json(connection, options, before, after, live=live is not None)
    return 0


def define_noted(connection: LibvirtConnection, guest: str, before: str) -> None:
    """Note in a guest's new definition which controllers libvirt added to it, compared with the one `before`."""
    kept = connection.definition(guest)
    noted = additions.note_controllers(before, kept)
    if noted != kept:
        connection.define(noted)


def _live(
    connection: LibvirtConnection,
    options: argparse.Namespace,
    wish: StandbyOptions,
    networks: Collection[str],
) -> Optional[tuple[RunningGuest, Halves]]:
    """The running guest and the pair to make in it; None if it has the pair. Raises Refused if that cannot work."""
    from vfmigrate.virt.running_guest import RunningGuest  # noqa: PLC0415 - libvirt

    if not connection.is_local():
        raise Refused(
            f"guest '{options.domain}' is on {connection.hostname()}, and --live must run on the host of the guest",
            f"run it on {connection.hostname()}",
        )
    guest = RunningGuest(connection.running_domain(options.domain), Sysfs(), patience=options.wait)
    halves = definition.live_halves(guest.xml(), wish, networks)
    return None if halves is None else (guest, halves)


def _make_live(
    connection: LibvirtConnection, options: argparse.Namespace, live: tuple[RunningGuest, Halves], before: str
) -> None:
    """Make the pair in the running guest; restore the definition `before` if that fails."""
    guest, halves = live
    try:
        live_pair.make(guest, halves)
    except VfmigrateError:
        connection.define(before)
        raise
    _print(
        options,
        f"made the pair in running guest '{guest.name}'; move the IP addresses of the VF in the guest "
        "to the new net_failover device",
    )


def _disable(options: argparse.Namespace) -> int:
    with _connect(options) as connection:
        before = connection.definition(options.domain)
        after = definition.disable(before, options.mac)
        if _change(connection, options, before, after):
            _print_when(connection, options)
        _print_json(connection, options, before, after, live=False)
    return 0


def _print(options: argparse.Namespace, text: str) -> None:
    """Print a line as it happens; with --json everything is printed at the end."""
    if not options.json:
        say(text)


def _print_json(
    connection: LibvirtConnection, options: argparse.Namespace, before: str, after: str, *, live: bool
) -> None:
    if options.json:
        result = {
            "schema": 1,
            "difference": difference(before, after),
            "running": connection.is_running(options.domain),
            "live": live,
            "dry_run": options.dry_run,
        }
        say_json(result)


def _change(
    connection: LibvirtConnection, options: argparse.Namespace, before: str, after: str, *, also: bool = False
) -> bool:
    """Print a change and apply it; False if there is none, which is printed unless there is `also` another."""
    if before == after:
        if not also:
            _print(options, "nothing to do")
        return False
    _print(options, difference(before, after))
    if options.dry_run:
        _print(options, "nothing changed (--dry-run)")
        return False
    connection.define(after)
    return True


def _print_when(connection: LibvirtConnection, options: argparse.Namespace) -> None:
    if getattr(options, "live", False):
        _print(options, "defined; in effect now and after the guest's next boot")
    elif connection.is_running(options.domain):
        _print(options, "defined; takes effect at the guest's next boot: shut it down, then start it")
    else:
        _print(options, "defined; takes effect at the guest's next boot")


def _show(options: argparse.Namespace) -> int:
    with _connect(options) as connection:
        found = pairs(connection.definition(options.domain))
    if options.json:
        say_json({"schema": 1, "pairs": found})
    else:
        tables.show(lambda width: tables.failover_pairs(found, width))
    return 0


def pairs(xml: str) -> list[dict[str, Any]]:
    """The failover pairs of a definition as plain values, with any fault in `problem`."""
    guest = domain_xml.read(xml)
    found = []
    for vf in guest.interfaces:
        if vf.teaming != "transient":
            continue
        standby = next((each for each in guest.standbys if each.alias == vf.standby), None)
        problem = None
        try:
            failover_pair.pair_of(guest, vf)
        except VfmigrateError as error:
            problem = str(error)
        found.append(
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
    return found
