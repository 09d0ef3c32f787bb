# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate-guest`: joins VF and virtio device in a bond, shows the bond, and removes it."""

from __future__ import annotations

import argparse
import ipaddress
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate_guest import VERSION, bond, nics
from vfmigrate_guest.bond import PARTS, Bond, identity
from vfmigrate_guest.fault import Fault
from vfmigrate_guest.nics import SYSFS, Nic
from vfmigrate_guest.text import complain, say, say_json

if TYPE_CHECKING:
    from vfmigrate_guest.networkmanager import NetworkManager

#: the exit statuses, for vfmigrate-guest(8)
EXIT_STATUS = {
    0: "Success.",
    1: "Refused or failed; one line on standard error says why. Profiles that it had added are deleted again.",
    2: "The command line is not valid.",
}

# what is printed of a change: planned, and done
_PLANNED = {"add": "would add", "change": "would change", "delete": "would delete"}
_DONE = {"add": "added", "change": "changed", "delete": "deleted"}

_DEFAULT_NAME = "bond0"
_CONNECT_SECONDS = 45.0


def _networkmanager() -> NetworkManager:
    # A command line is parsed without dbus-python as well.
    from vfmigrate_guest.networkmanager import NetworkManager  # noqa: PLC0415

    return NetworkManager()


# -- show


def _show(options: argparse.Namespace) -> None:
    present = nics.nics()
    ports = (SYSFS / options.name / "bonding" / "slaves").read_text().split() if _exists(options.name) else []
    active = (SYSFS / options.name / "bonding" / "active_slave").read_text().strip() if ports else ""
    answer: dict[str, Any] = {
        "schema": 1,
        "devices": [{**nic.__dict__, "virtio": nic.virtio} for nic in present],
        "bond": {"name": options.name, "ports": ports, "active": active} if ports else None,
        "advice": nics.advice(present) if not ports else f"{options.name} joins {' and '.join(ports)}",
    }
    if options.json:
        say_json(answer)
        return
    for nic in present:
        flags = ", standby of a VF" if nic.standby else ""
        master = f", port of {nic.master}" if nic.master else ""
        say(f"{nic.name}: {nic.mac}, {nic.driver}{flags}{master}")
    if ports:
        say(f"{options.name}: ports {' '.join(ports)}, active {active or 'none'}")
    say(answer["advice"])


def _exists(name: str) -> bool:
    return (SYSFS / name / "bonding").is_dir()


# -- bond


def _join(options: argparse.Namespace) -> None:
    wanted = Bond(options.name, *_devices(options), fail_over_mac=options.fail_over_mac)
    bond.check(wanted)
    manager = _networkmanager()
    present = {part: manager.profile(identity(options.name, part)) for part in PARTS}
    addressing = _addressing(options, manager, wanted, present["bond"])
    made = bond.profiles(wanted, addressing, manager.version())
    todo = bond.steps(made, present)
    if options.dry_run:
        for part, what in todo.items():
            say(f"{_PLANNED[what]} profile {made[part]['connection']['id']}")
        return
    apply_profiles(manager, wanted, made, todo)
    say(f"{options.name} joins {wanted.vf.name} (VF) and {wanted.standby.name}" if todo else "nothing to do")


def apply_profiles(
    manager: NetworkManager, wanted: Bond, made: Mapping[str, bond.Profile], todo: Mapping[str, str]
) -> None:
    """Apply the profiles, print each, and activate them; if that fails, delete those that were added."""
    try:
        for part, what in todo.items():
            (manager.add if what == "add" else manager.change)(made[part])
            say(f"{_DONE[what]} profile {made[part]['connection']['id']}")
        if todo or not _is_whole(wanted):
            manager.activate(identity(wanted.name, "bond"))
            for part, nic in (("vf", wanted.vf), ("standby", wanted.standby)):
                manager.activate(identity(wanted.name, part), nic.name)
            for name in (wanted.vf.name, wanted.standby.name, wanted.name):
                manager.wait_connected(name, _CONNECT_SECONDS)
            _check_whole(wanted)
    except Fault:
        for part, what in todo.items():
            if what == "add":
                manager.delete(identity(wanted.name, part))
        raise


def _check_whole(wanted: Bond) -> None:
    if not _is_whole(wanted):
        raise Fault(f"{wanted.name} lacks a port", "see: journalctl -u NetworkManager")


def _is_whole(wanted: Bond) -> bool:
    if not _exists(wanted.name):
        return False
    ports = (SYSFS / wanted.name / "bonding" / "slaves").read_text().split()
    return {wanted.vf.name, wanted.standby.name} <= set(ports)


def _devices(options: argparse.Namespace) -> tuple[Nic, Nic]:
    present = nics.nics()
    if options.vf is None and options.standby is None:
        return nics.choose(present)
    if options.vf is None or options.standby is None:
        raise Fault("only one of --vf and --standby is given", "give both or neither")
    return nics.find(present, options.vf), nics.find(present, options.standby)


def _addressing(
    options: argparse.Namespace,
    manager: NetworkManager,
    wanted: Bond,
    present: Optional[Mapping[str, Mapping[str, Any]]],
) -> Optional[Mapping[str, Any]]:
    """The bond's IP settings: from the options, else its present ones, else those of one of its ports."""
    if options.address:
        ipv4: dict[str, Any] = {
            "method": "manual",
            "address-data": [
                {"address": str(each.ip), "prefix": each.network.prefixlen} for each in options.address
            ],
        }
        if options.gateway is not None:
            ipv4["gateway"] = str(options.gateway)
        return {"ipv4": ipv4, "ipv6": {"method": "auto"}}
    sources = [present, manager.profile_of(wanted.vf.name), manager.profile_of(wanted.standby.name)]
    for source in sources:
        if source is not None and "master" not in source["connection"] and "ipv4" in source:
            return {name: source[name] for name in ("ipv4", "ipv6") if name in source}
    return None


# -- remove


def _remove(options: argparse.Namespace) -> None:
    manager = _networkmanager()
    there = [part for part in PARTS if manager.profile(identity(options.name, part)) is not None]
    for part in reversed(there):
        name = options.name if part == "bond" else f"{options.name}-{part}"
        if not options.dry_run:
            manager.delete(identity(options.name, part))
        say(f"{_PLANNED['delete'] if options.dry_run else _DONE['delete']} profile {name}")
    if not there:
        say("nothing to do")


# -- the command line


def _address(text: str) -> ipaddress.IPv4Interface:
    address = ipaddress.IPv4Interface(text)
    if "/" not in text:
        raise argparse.ArgumentTypeError(f"'{text}' has no prefix length, such as /24")
    return address


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vfmigrate-guest",
        description="Run in a guest with a VF: keep its network up while a migration unplugs the VF.",
    )
    parser.add_argument("--version", action="version", version=VERSION, help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    purpose = "show network devices and the bond, and whether this guest needs a bond or has net_failover"
    verb = verbs.add_parser("show", help=purpose, description=purpose)
    _add_name(verb)
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_show)

    purpose = "join a VF and a virtio device in an active-backup bond, through NetworkManager"
    verb = verbs.add_parser("bond", help=purpose, description=purpose)
    _add_name(verb)
    verb.add_argument(
        "--vf", metavar="DEVICE", help="name or MAC of the VF; default: the only device that is not virtio"
    )
    verb.add_argument(
        "--standby",
        metavar="DEVICE",
        help="name or MAC of the virtio device; default: the only virtio device",
    )
    verb.add_argument(
        "--fail-over-mac",
        choices=("active", "follow", "none"),
        default="active",
        help="bonding's fail_over_mac; active suits a VF that cannot change its MAC (default: active)",
    )
    verb.add_argument(
        "--address",
        type=_address,
        action="append",
        metavar="ADDRESS/LENGTH",
        help="IPv4 address of the bond; can be repeated; default: the settings of its ports",
    )
    verb.add_argument(
        "--gateway", type=ipaddress.IPv4Address, metavar="ADDRESS", help="IPv4 gateway, with --address"
    )
    verb.add_argument("--dry-run", action="store_true", help="show what would change; change nothing")
    verb.set_defaults(run=_join)

    purpose = "remove the bond; the devices get their former profiles back"
    verb = verbs.add_parser("remove", help=purpose, description=purpose)
    _add_name(verb)
    verb.add_argument("--dry-run", action="store_true", help="show what would change; change nothing")
    verb.set_defaults(run=_remove)
    return parser


def _add_name(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--name",
        metavar="BOND",
        default=_DEFAULT_NAME,
        help=f"name of the bond (default: {_DEFAULT_NAME})",
    )


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one verb; returns the exit status, 1 for a failure or refusal."""
    options = arguments().parse_args(argv)
    try:
        options.run(options)
    except Fault as fault:
        complain(str(fault))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
