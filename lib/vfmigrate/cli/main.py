# SPDX-License-Identifier: GPL-2.0-or-later
"""The `vfmigrate` command: asks the daemon and shows what it says. Holds no privileges and no state."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from vfmigrate.cli import examples, tables
from vfmigrate.errors import Cancelled, VfmigrateError
from vfmigrate.rpc import protocol
from vfmigrate.version import VERSION

_PROVISION_SECONDS = 1800.0

#: The verbs that need more than the daemon, and the module of each. What these import takes longer to load than
#: the daemon takes to answer, so it is loaded only for the verb that is asked for.
_MODULES = {
    "attach": "attach_verb",
    "detach": "attach_verb",
    "check": "check_verb",
    "migrate": "migrate_verb",
    "evacuate": "evacuate_verb",
    "failover": "failover_verb",
    "ovirt": "ovirt_verb",
}


def _status(options: argparse.Namespace) -> int:
    told = protocol.ask("status", {}, path=options.socket)
    _show(told, options.json, tables.status)
    return 0


def _provision(options: argparse.Namespace) -> int:
    arguments: dict[str, Any] = {"pools": options.pools, "dry_run": options.dry_run, "wait": options.wait}
    if options.pf is not None:
        arguments["pf"] = options.pf
    # Hundreds of VFs take a card minutes, and another provisioning may come first.
    told = protocol.ask(
        "provision", arguments, path=options.socket, timeout=_PROVISION_SECONDS + options.wait
    )
    _show(told, options.json, tables.provision)
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


#: the verbs that only ask the daemon, with what does them and what they are for
_QUESTIONS = {
    "status": (_status, "show pools, VFs and who has them"),
    "provision": (_provision, "make cards, switch and libvirt network ready as the pools say"),
    "reconcile": (_reconcile, "compare host and claims now, and mend what differs"),
}


def _modules(words: Sequence[str]) -> Iterable[str]:
    verb = words[0] if words else None
    if verb in _QUESTIONS:
        return ()
    if verb in _MODULES:
        return (_MODULES[verb],)
    return dict.fromkeys(_MODULES.values())


def arguments(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The command line; for words that begin with a verb, as much of it as they need."""
    parser = argparse.ArgumentParser(
        prog="vfmigrate",
        description="Live migration of guests with SR-IOV virtual functions: look at this host, and make it ready.",
    )
    parser.add_argument("--version", action="version", version=VERSION, help="show the version and end")
    parser.add_argument(
        "--socket", type=Path, default=protocol.SOCKET, metavar="PATH", help=argparse.SUPPRESS
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (run, told) in _QUESTIONS.items():
        verb = verbs.add_parser(name, help=told, description=told)
        verb.add_argument("--json", action="store_true", help="for programs")
        verb.set_defaults(run=run)
        if run is _provision:
            _add_provision_arguments(verb)
    for module in _modules(words):
        importlib.import_module(f"vfmigrate.cli.{module}").add(verbs)
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
    words = sys.argv[1:] if argv is None else argv
    options = arguments(words).parse_args(words)
    try:
        return int(options.run(options))
    except VfmigrateError as error:
        print(f"vfmigrate: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return Cancelled.exit_code  # before anything was begun that would have to be ended
