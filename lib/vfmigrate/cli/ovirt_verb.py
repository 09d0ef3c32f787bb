# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate ovirt profile show|set`: vNIC profiles of oVirt's engine, as the strategies need them.

Works over the engine's REST API with the user's own rights, from any machine; does not need the daemon.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.cli import common_options, tables
from vfmigrate.config import setting
from vfmigrate.errors import HostError, InputError, UsageError
from vfmigrate.model import strategy
from vfmigrate.ovirt import vnic_profile
from vfmigrate.ovirt.vnic_profile import POOL, PROPERTIES, STRATEGY, VLAN, Change, with_state
from vfmigrate.text import say, say_json

if TYPE_CHECKING:
    from vfmigrate.ovirt.engine import Engine

_YES_NO = {"yes": True, "no": False}
_NONE = "none"


def add(verbs: Any) -> None:
    """Add the verb and its sub-verbs to a parser's."""
    purpose = "show and change the VF settings of oVirt's engine"
    verb = verbs.add_parser("ovirt", help=purpose, description=purpose)
    things = verb.add_subparsers(dest="thing", required=True, metavar="THING")
    purpose = "show and change vNIC profiles"
    actions = things.add_parser("profile", help=purpose, description=purpose).add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )

    purpose = "show vNIC profiles"
    action = actions.add_parser("show", help=purpose, description=purpose)
    action.add_argument(
        "profiles", nargs="*", metavar="PROFILE", help="NAME, NETWORK/NAME or id; default: all profiles"
    )
    common_options.add_json(action)
    _add_connection(action)
    action.set_defaults(run=_show)

    purpose = "change a vNIC profile"
    action = actions.add_parser("set", help=purpose, description=purpose)
    action.add_argument("profile", metavar="PROFILE", help="NAME, NETWORK/NAME or id")
    action.add_argument(
        "--pass-through", choices=_YES_NO, help="whether the engine assigns VFs to the vNICs itself"
    )
    action.add_argument("--migratable", choices=_YES_NO, help="whether VMs with such a vNIC can migrate")
    action.add_argument("--failover", metavar="PROFILE", help="profile of the standby vNIC")
    action.add_argument(
        "--strategy",
        choices=(*strategy.NAMES, _NONE),
        help=f"custom property {STRATEGY}; the vdsm plugin acts on vfio",
    )
    action.add_argument("--pool", metavar="POOL", help=f"custom property {POOL}; 'none' removes it")
    action.add_argument("--vlan", metavar="N", help=f"custom property {VLAN}; 'none' removes it")
    action.add_argument(
        "--no-network-filter",
        action="store_true",
        help="remove the network filter, which passthrough does not allow",
    )
    common_options.add_dry_run(action)
    common_options.add_json(action)
    _add_connection(action)
    action.set_defaults(run=_set)


def _add_connection(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--url", metavar="URL", help="API of the engine, https://HOST/ovirt-engine/api; default: $OVIRT_URL"
    )
    action.add_argument(
        "--user", metavar="USER", help="user, such as admin@internal; default: $OVIRT_USERNAME"
    )
    action.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="file that holds the password; default: $OVIRT_PASSWORD",
    )
    action.add_argument(
        "--ca-file",
        metavar="FILE",
        help="CA certificate of the engine; default: $OVIRT_CAFILE, else the system's CAs",
    )


def _connect(options: argparse.Namespace) -> Engine:
    try:
        from vfmigrate.ovirt.engine import Engine  # noqa: PLC0415 - an optional extra
    except ImportError:
        raise HostError(
            "oVirt's SDK for Python is not installed",
            "install python3-ovirt-engine-sdk4, or with pip: vfmigrate[ovirt]",
        ) from None

    environment = os.environ
    url = options.url or environment.get("OVIRT_URL")
    if not url:
        raise UsageError("the URL of oVirt's engine is missing", "give --url or set OVIRT_URL")
    return Engine(
        url,
        user=options.user or environment.get("OVIRT_USERNAME"),
        password=_password(options.password_file) or environment.get("OVIRT_PASSWORD"),
        ca_file=options.ca_file or environment.get("OVIRT_CAFILE"),
        token=environment.get("OVIRT_TOKEN"),
    )


def _password(path: Optional[Path]) -> Optional[str]:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except OSError as error:
        raise InputError(f"cannot read the password from {path}: {error.strerror}") from None


def _show(options: argparse.Namespace) -> int:
    with _connect(options) as engine:
        profiles = engine.profiles()
    chosen = [asdict(vnic_profile.find(profiles, name)) for name in options.profiles]
    chosen = chosen or [asdict(profile) for profile in profiles]
    if options.json:
        say_json({"schema": 1, "profiles": chosen})
        return 0
    names = {profile.id: f"{profile.network}/{profile.name}" for profile in profiles}
    tables.show(lambda width: tables.vnic_profiles(chosen, names, width))
    return 0


def _set(options: argparse.Namespace) -> int:
    if options.failover == _NONE:
        raise UsageError(
            "the REST API of oVirt's engine cannot remove a failover", "use the Administration Portal"
        )
    with _connect(options) as engine:
        profiles = engine.profiles()
        before = vnic_profile.find(profiles, options.profile)
        failover = vnic_profile.find(profiles, options.failover).id if options.failover else None
        after = vnic_profile.changed(before, _change(options, failover))
        changes = list(vnic_profile.differences(before, after))
        if changes:
            vnic_profile.check(before, after, profiles)
        if changes and not options.dry_run:
            engine.update(before, after)
    if options.json:
        result = {"schema": 1, "profile": after.name, "changes": changes, "dry_run": options.dry_run}
        say_json(result)
        return 0
    for line in changes:
        say(f"{'would change' if options.dry_run else 'changed'} {line}")
    if not changes:
        say("nothing to do")
    return 0


def _change(options: argparse.Namespace, failover: Optional[str]) -> Change:
    given = dict(zip(PROPERTIES, (options.strategy, options.pool, options.vlan)))
    if given[VLAN] not in (None, _NONE):
        try:
            setting.number(1, setting.MAX_VLAN).read(given[VLAN])
        except InputError as error:
            raise UsageError(f"--vlan: {error.problem}") from None
    if given[STRATEGY] is not None and not with_state(given[STRATEGY]):
        # the vdsm plugin uses pool and VLAN only where the device state travels
        given = {**given, POOL: given[POOL] or _NONE, VLAN: given[VLAN] or _NONE}
    return Change(
        pass_through=_YES_NO.get(options.pass_through),
        migratable=_YES_NO.get(options.migratable),
        failover=failover,
        properties={
            key: None if value == _NONE else value for key, value in given.items() if value is not None
        },
        no_network_filter=options.no_network_filter,
    )
