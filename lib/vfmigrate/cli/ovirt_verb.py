# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate ovirt profile show|set`: the vNIC profiles of oVirt's engine, as the strategies need them.

Works over the engine's REST API with the user's own rights, from any machine; asks nothing of the daemon.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.config import setting
from vfmigrate.errors import HostError, InputError, UsageError
from vfmigrate.ovirt import vnic_profile
from vfmigrate.ovirt.vnic_profile import POOL, PROPERTIES, STRATEGY, VLAN, Change

if TYPE_CHECKING:
    from vfmigrate.ovirt.engine import Engine

_YES_NO = {"yes": True, "no": False}
_NONE = "none"


def add(verbs: Any) -> None:
    """Add the verb and its sub-verbs to a parser's."""
    told = "show and set what oVirt's engine says of VFs"
    verb = verbs.add_parser("ovirt", help=told, description=told)
    things = verb.add_subparsers(dest="thing", required=True, metavar="THING")
    told = "show and set vNIC profiles"
    actions = things.add_parser("profile", help=told, description=told).add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )

    told = "show vNIC profiles"
    action = actions.add_parser("show", help=told, description=told)
    action.add_argument(
        "profiles", nargs="*", metavar="PROFILE", help="NAME, NETWORK/NAME or id; all of them unless named"
    )
    action.add_argument("--json", action="store_true", help="for programs")
    _add_connection(action)
    action.set_defaults(run=_show)

    told = "set a vNIC profile"
    action = actions.add_parser("set", help=told, description=told)
    action.add_argument("profile", metavar="PROFILE", help="NAME, NETWORK/NAME or id")
    action.add_argument("--pass-through", choices=_YES_NO, help="whether the engine gives vNICs a VF itself")
    action.add_argument(
        "--migratable", choices=_YES_NO, help="whether guests with a VF of the engine's migrate"
    )
    action.add_argument("--failover", metavar="PROFILE", help="the profile of the standby")
    action.add_argument(
        "--strategy",
        choices=("vfio", "failover", "replug", _NONE),
        help=f"custom property {STRATEGY}; vfio is what the plugin for vdsm acts on",
    )
    action.add_argument("--pool", metavar="NAME", help=f"custom property {POOL}; none takes it away")
    action.add_argument("--vlan", metavar="N", help=f"custom property {VLAN}; none takes it away")
    action.add_argument(
        "--no-network-filter",
        action="store_true",
        help="take the network filter away; passthrough excludes it",
    )
    action.add_argument(
        "--dry-run", action="store_true", help="say what would be changed, and change nothing"
    )
    action.add_argument("--json", action="store_true", help="for programs")
    _add_connection(action)
    action.set_defaults(run=_set)


def _add_connection(action: argparse.ArgumentParser) -> None:
    action.add_argument("--url", help="the engine's API, https://NAME/ovirt-engine/api; default: $OVIRT_URL")
    action.add_argument("--user", help="such as admin@internal; default: $OVIRT_USERNAME")
    action.add_argument(
        "--password-file", type=Path, metavar="FILE", help="file with the password; default: $OVIRT_PASSWORD"
    )
    action.add_argument(
        "--ca-file", metavar="FILE", help="the engine's CA; default: $OVIRT_CAFILE, or the system's store"
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
        raise UsageError("it is not said where the engine is", "give --url or set OVIRT_URL")
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
        raise InputError(f"the password cannot be read from {path}: {error.strerror}") from None


def _show(options: argparse.Namespace) -> int:
    with _connect(options) as engine:
        profiles = engine.profiles()
    chosen = [vnic_profile.find(profiles, name) for name in options.profiles] or profiles
    if options.json:
        print(json.dumps({"schema": 1, "profiles": [asdict(profile) for profile in chosen]}, indent=2))
        return 0
    for profile in sorted(chosen, key=lambda profile: (profile.network, profile.name)):
        for line in vnic_profile.lines(profile, profiles):
            print(line)
    return 0


def _set(options: argparse.Namespace) -> int:
    if options.failover == _NONE:
        raise UsageError(
            "the engine's REST API cannot take a failover away", "do it in the Administration Portal"
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
        told = {"schema": 1, "profile": after.name, "changes": changes, "dry_run": options.dry_run}
        print(json.dumps(told, indent=2))
        return 0
    for line in changes or ["nothing to do"]:
        print(line)
    return 0


def _change(options: argparse.Namespace, failover: Optional[str]) -> Change:
    asked = dict(zip(PROPERTIES, (options.strategy, options.pool, options.vlan)))
    if asked[VLAN] not in (None, _NONE):
        try:
            setting.number(1, setting.MAX_VLAN).read(asked[VLAN])
        except InputError as error:
            raise UsageError(f"--vlan: {error.problem}") from None
    if asked[STRATEGY] is not None and asked[STRATEGY] != "vfio":
        # pool and VLAN mean something to strategy vfio only
        asked = {**asked, POOL: asked[POOL] or _NONE, VLAN: asked[VLAN] or _NONE}
    return Change(
        pass_through=_YES_NO.get(options.pass_through),
        migratable=_YES_NO.get(options.migratable),
        failover=failover,
        properties={
            key: None if value == _NONE else value for key, value in asked.items() if value is not None
        },
        no_network_filter=options.no_network_filter,
    )
