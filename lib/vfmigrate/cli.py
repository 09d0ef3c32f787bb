# SPDX-License-Identifier: GPL-2.0-or-later
"""The `vfmigrate` command: asks the daemon and shows what it says. Holds no privileges and no state."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from vfmigrate import protocol
from vfmigrate.errors import VfmigrateError
from vfmigrate.version import VERSION


def _status(options: argparse.Namespace) -> None:
    told = protocol.ask("status", {}, path=options.socket)
    if options.json:
        print(json.dumps(told, indent=2))
        return
    for pool in told["pools"]:
        print(f"pool {pool['name']}: bridge {pool['bridge']}")
        for pf in pool["pfs"]:
            _show_pf(pf)
    if not told["pools"]:
        print("no pools: see /etc/vfmigrate/vfmigrate.conf")


def _show_pf(pf: Mapping[str, Any]) -> None:
    if "problem" in pf:
        print(f"  PF {pf['address']}: {pf['problem']}")
    else:
        print(
            f"  PF {pf['address']}: {pf['mode']}, PSID {pf['psid'] or '-'}, firmware {pf['firmware'] or '-'}"
        )
    for vf in pf.get("vfs", ()):
        flags = "migratable" if vf["migratable"] else "not migratable"
        port = f"{vf['representor'] or '-'}" + (f" in {vf['bridge']}" if vf["bridge"] else "")
        tag = f" tag {vf['tag']}" if vf["tag"] is not None else ""
        guest = f", guest {vf['guest']}" if vf["guest"] else ""
        print(f"    {vf['address']} {vf['state']}{guest}; {vf['driver'] or 'unbound'}, {flags}; {port}{tag}")


def _reconcile(options: argparse.Namespace) -> None:
    changes = protocol.ask("reconcile", {}, path=options.socket)["changes"]
    if options.json:
        print(json.dumps({"schema": 1, "changes": changes}, indent=2))
        return
    for change in changes:
        print(change)
    if not changes:
        print("nothing to do")


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vfmigrate",
        description="Live migration of guests with SR-IOV virtual functions: look at this host.",
    )
    parser.add_argument("--version", action="version", version=VERSION, help="show the version and end")
    parser.add_argument(
        "--socket", type=Path, default=protocol.SOCKET, metavar="PATH", help=argparse.SUPPRESS
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, run, told in (
        ("status", _status, "show pools, VFs and who has them"),
        ("reconcile", _reconcile, "compare host and claims now, and mend what differs"),
    ):
        verb = verbs.add_parser(name, help=told, description=told)
        verb.add_argument("--json", action="store_true", help="for programs")
        verb.set_defaults(run=run)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one verb; returns the exit status (errors.py: one for each kind of failure)."""
    options = arguments().parse_args(argv)
    try:
        options.run(options)
    except VfmigrateError as error:
        print(f"vfmigrate: {error}", file=sys.stderr)
        return error.exit_code
    return 0
