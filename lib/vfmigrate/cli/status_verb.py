# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate status`: pools, PFs, VFs and the guests that have them, as the daemon reports them. Loads no library."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from typing import Any, Optional

from vfmigrate.cli import common_options, tables
from vfmigrate.cli.tables import Answer
from vfmigrate.errors import Refused, UsageError
from vfmigrate.polling import poll
from vfmigrate.rpc import protocol
from vfmigrate.text import clear_terminal, say_json

#: seconds between two looks of --watch
_WATCH_SECONDS = 2


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    purpose = "show pools, VFs and the guests that have them"
    verb = verbs.add_parser("status", help=purpose, description=purpose)
    verb.add_argument("--pool", metavar="POOL", help="only this pool")
    verb.add_argument("--guest", metavar="DOMAIN", help="only the VFs of this guest (name or UUID)")
    verb.add_argument(
        "--wide", action="store_true", help="also show MAC, strategy and MSI-X count of each VF"
    )
    verb.add_argument(
        "--watch",
        type=common_options.positive,
        nargs="?",
        const=_WATCH_SECONDS,
        metavar="SECONDS",
        help=f"show it again and again, by default every {_WATCH_SECONDS} seconds, until Ctrl-C",
    )
    verb.add_argument(
        "--fail-on-problems", action="store_true", help="exit with status 1 if there are problems"
    )
    common_options.add_json(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask the daemon and print, once or until Ctrl-C."""
    if options.watch is None:
        return _show(options)
    # Ctrl-C ends it; so does an error, such as a daemon that does not answer
    poll(lambda: _again(options), math.inf, options.watch)
    return 0


def _again(options: argparse.Namespace) -> None:
    _show(options, again=True)


def _show(options: argparse.Namespace, *, again: bool = False) -> int:
    answer = selected(protocol.ask("status", {}, path=options.socket), pool=options.pool, guest=options.guest)
    if options.json:
        say_json(answer, indent=None if again else 2)
    else:
        if again:
            clear_terminal()
        tables.show(lambda width: tables.status(answer, width, wide=options.wide))
    return Refused.exit_code if options.fail_on_problems and any(problems(answer)) else 0


def problems(answer: Answer) -> Iterator[str]:
    """All problems of a status: of the host, and of its pools, PFs and VFs."""
    yield from answer["problems"]
    for pool in answer["pools"]:
        yield from pool["problems"]
        for pf in pool["pfs"]:
            yield from pf["problems"]
            for vf in pf["vfs"]:
                yield from vf["problems"]


def selected(answer: Answer, *, pool: Optional[str] = None, guest: Optional[str] = None) -> Answer:
    """The part of a status that concerns one pool or one guest. Raises UsageError for a pool that does not exist."""
    pools = list(answer["pools"])
    if pool is not None:
        names = ", ".join(sorted(each["name"] for each in pools)) or "none"
        pools = [each for each in pools if each["name"] == pool]
        if not pools:
            raise UsageError(f"this host has no pool '{pool}'", f"its pools: {names}")
    claims = [each for each in answer["claims"] if pool is None or each["pool"] == pool]
    if guest is not None:
        claims = [each for each in claims if guest in (each["domain"], each["domain_name"])]
        vfs = {each["vf"] for each in claims}
        pools = [part for each in pools if (part := _with_vfs(each, vfs, guest))["pfs"]]
    return {**answer, "pools": pools, "claims": claims}


def _with_vfs(pool: Answer, vfs: set[str], guest: str) -> Answer:
    """A pool with only these VFs and those of this guest, and with only the PFs that have some."""

    def kept(vf: Answer) -> bool:
        return vf["address"] in vfs or vf["guest"] == guest

    parts = [{**pf, "vfs": [vf for vf in pf["vfs"] if kept(vf)]} for pf in pool["pfs"]]
    return {**pool, "pfs": [pf for pf in parts if pf["vfs"]]}
