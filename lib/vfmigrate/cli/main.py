# SPDX-License-Identifier: GPL-2.0-or-later
"""The `vfmigrate` command: parses the command line and runs one verb. Holds no privileges and no state."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from vfmigrate.cli import common_options, examples, tables
from vfmigrate.cli.tables import Answer, Width
from vfmigrate.errors import KINDS, Cancelled, ConfigError, VfmigrateError
from vfmigrate.rpc import protocol
from vfmigrate.text import complain, say_json
from vfmigrate.version import VERSION

#: the errors whose exit statuses are in vfmigrate(8); only the daemon reads the configuration
FAILURES = tuple(kind for kind in KINDS.values() if kind is not ConfigError)

_PROVISION_SECONDS = 1800.0

#: The verbs that have a module of their own, and the module of each. The imports of most take longer to load than the
#: daemon takes to answer, so a module is loaded only for its own verb.
_MODULES = {
    "status": "status_verb",
    "list": "list_verb",
    "attach": "attach_verb",
    "detach": "attach_verb",
    "check": "check_verb",
    "where": "where_verb",
    "migrate": "migrate_verb",
    "evacuate": "evacuate_verb",
    "failover": "failover_verb",
    "ovirt": "ovirt_verb",
    "trace": "trace_verb",
}


def _provision(options: argparse.Namespace) -> int:
    arguments: dict[str, Any] = {"pools": options.pools, "dry_run": options.dry_run, "wait": options.wait}
    if options.pf is not None:
        arguments["pf"] = options.pf
    # A card takes minutes to create hundreds of VFs, and another provisioning may run before this one.
    answer = protocol.ask(
        "provision", arguments, path=options.socket, timeout=_PROVISION_SECONDS + options.wait
    )
    _show(answer, options.json, functools.partial(tables.provision, pf=options.pf))
    return _report([protocol.failure(pool["error"]) for pool in answer["pools"] if pool["error"] is not None])


def _report(errors: Sequence[VfmigrateError]) -> int:
    """Print the errors of a request that did what it could; returns the exit status, which is that of the first."""
    for error in errors:
        complain("vfmigrate", error)
    return errors[0].exit_code if errors else 0


def _show(answer: Answer, as_json: bool, lines: Callable[[Answer, Width], Iterator[str]]) -> None:
    if as_json:
        say_json(answer)
    else:
        tables.show(lambda width: lines(answer, width))


def _reconcile(options: argparse.Namespace) -> int:
    answer = protocol.ask("reconcile", {}, path=options.socket)
    problems = answer.get("problems", [])  # a daemon that is older has none
    _show({"schema": 1, "changes": answer["changes"], "problems": problems}, options.json, tables.reconcile)
    return _report([protocol.failure(problem) for problem in problems])


#: the verbs that only need the daemon: their functions, and their help
_REQUESTS = {
    "provision": (_provision, "prepare cards, Open vSwitch and libvirt networks as configured"),
    "reconcile": (_reconcile, "compare the host with its claims now, and correct what differs"),
}


def _modules(words: Sequence[str]) -> Iterable[str]:
    verb = words[0] if words else None
    if verb in _REQUESTS:
        return ()
    if verb in _MODULES:
        return (_MODULES[verb],)
    return dict.fromkeys(_MODULES.values())


def arguments(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of the command line; only with the verb that `words` begin with, if they do."""
    parser = argparse.ArgumentParser(
        prog="vfmigrate",
        description="Live migration of libvirt guests that have virtual functions (VFs) of SR-IOV network cards.",
    )
    parser.add_argument("--version", action="version", version=VERSION, help="show the version and exit")
    parser.add_argument(
        "--socket", type=Path, default=protocol.SOCKET, metavar="PATH", help=argparse.SUPPRESS
    )
    parser.add_argument(
        "-c",
        "--connect",
        dest="connect_first",
        metavar="URI",
        help="the same as after a verb that has this option, as virsh takes it",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (run, purpose) in _REQUESTS.items():
        verb = verbs.add_parser(name, help=purpose, description=purpose)
        common_options.add_json(verb)
        verb.set_defaults(run=run)
        if run is _provision:
            _add_provision_arguments(verb)
    for module in _modules(words):
        importlib.import_module(f"vfmigrate.cli.{module}").add(verbs)
    examples.add(parser)
    return parser


def _add_provision_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("pools", nargs="*", metavar="POOL", help="pool of this host; default: all pools")
    common_options.add_dry_run(verb)
    verb.add_argument(
        "--pf", metavar="ADDRESS", help="only the pool of this physical function, if it is in one"
    )
    verb.add_argument(
        "--wait",
        type=float,
        default=0,
        metavar="SECONDS",
        help="how long to wait for missing cards while the host boots (default: 0)",
    )


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The options of a command line, in which virsh's habits count: -c before the verb, and `help VERB`."""
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    parser = arguments(words)
    options = parser.parse_args(words)
    if options.connect_first is not None:
        if not hasattr(options, "connect"):
            parser.error(f"{options.verb} takes no option -c")
        return argparse.Namespace(**{**vars(options), "connect": options.connect or options.connect_first})
    return options


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one verb; returns the exit status, one for each kind of failure (errors.py)."""
    words = list(sys.argv[1:] if argv is None else argv)
    options = parsed(words)
    try:
        return int(options.run(options))
    except VfmigrateError as error:
        complain("vfmigrate", error)
        return error.exit_code
    except KeyboardInterrupt:
        return Cancelled.exit_code  # nothing had begun that would have to be undone
