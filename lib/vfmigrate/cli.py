# SPDX-License-Identifier: GPL-2.0-or-later
"""The `vfmigrate` command: asks the daemon and shows what it says. Holds no privileges and no state."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from vfmigrate import (
    attach_verb,
    check_verb,
    evacuate_verb,
    examples,
    failover_verb,
    listing,
    migrate_verb,
    ovirt_verb,
    protocol,
)
from vfmigrate.errors import Cancelled, VfmigrateError
from vfmigrate.version import VERSION

_PROVISION_SECONDS = 1800.0


def _status(options: argparse.Namespace) -> int:
    told = protocol.ask("status", {}, path=options.socket)
    _show(told, options.json, listing.status)
    return 0


def _provision(options: argparse.Namespace) -> int:
    arguments: dict[str, Any] = {"pools": options.pools, "dry_run": options.dry_run, "wait": options.wait}
    if options.pf is not None:
        arguments["pf"] = options.pf
    # Hundreds of VFs take a card minutes, and another provisioning may come first.
    told = protocol.ask(
        "provision", arguments, path=options.socket, timeout=_PROVISION_SECONDS + options.wait
    )
    _show(told, options.json, listing.provision)
    errors = [outcome["error"] for outcome in told["pools"] if outcome["error"] is not None]
    for error in errors:
        print(f"vfmigrate: {protocol.failure(error)}", file=sys.stderr)
    return protocol.failure(errors[0]).exit_code if errors else 0


def _show(
    told: Mapping[str, Any], as_json: bool, lines: Callable[[Mapping[str, Any]], Iterable[str]]
) -> None:
    if as_json:
        print(json.dumps(told, indent=2))
        return
    for line in lines(told):
        print(line)


def _reconcile(options: argparse.Namespace) -> int:
    changes = protocol.ask("reconcile", {}, path=options.socket)["changes"]
    _show({"schema": 1, "changes": changes}, options.json, lambda _: changes or ["nothing to do"])
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vfmigrate",
        description="Live migration of guests with SR-IOV virtual functions: look at this host, and make it ready.",
    )
    parser.add_argument("--version", action="version", version=VERSION, help="show the version and end")
    parser.add_argument(
        "--socket", type=Path, default=protocol.SOCKET, metavar="PATH", help=argparse.SUPPRESS
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, run, told in (
        ("status", _status, "show pools, VFs and who has them"),
        ("provision", _provision, "make cards, switch and libvirt network ready as the pools say"),
        ("reconcile", _reconcile, "compare host and claims now, and mend what differs"),
    ):
        verb = verbs.add_parser(name, help=told, description=told)
        verb.add_argument("--json", action="store_true", help="for programs")
        verb.set_defaults(run=run)
        if run is _provision:
            _add_provision_arguments(verb)
    attach_verb.add(verbs)
    check_verb.add(verbs)
    migrate_verb.add(verbs)
    evacuate_verb.add(verbs)
    failover_verb.add(verbs)
    ovirt_verb.add(verbs)
    examples.add(parser)
    return parser


def _add_provision_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "pools", nargs="*", metavar="POOL", help="a pool of this host; all of them unless named"
    )
    verb.add_argument("--dry-run", action="store_true", help="say what would be changed, and change nothing")
    verb.add_argument("--pf", metavar="ADDRESS", help="the pool of this physical function, if it has one")
    verb.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="SECONDS",
        help="how long cards may still be missing, as they are while the host boots (default: 0)",
    )


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one verb; returns the exit status (errors.py: one for each kind of failure)."""
    options = arguments().parse_args(argv)
    try:
        return int(options.run(options))
    except VfmigrateError as error:
        print(f"vfmigrate: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return Cancelled.exit_code  # before anything was begun that would have to be ended
