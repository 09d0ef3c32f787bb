# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate check DOMAIN DESTURI`: what the administrator asks, and what is shown of it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vfmigrate.cli import check_report
from vfmigrate.errors import Refused
from vfmigrate.preflight import report


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    told = "say whether a guest can move to another host, and what stands against it"
    verb = verbs.add_parser("check", help=told, description=told)
    verb.add_argument("domain", metavar="DOMAIN", help="name or UUID of the guest")
    verb.add_argument("destination", metavar="DESTURI", help="libvirt connection to the host it is to go to")
    verb.add_argument(
        "-c",
        "--connect",
        metavar="URI",
        help="libvirt connection to the host where it is; default: as virsh chooses it",
    )
    verb.add_argument(
        "--copy-storage-all", action="store_true", help="its disks are to be copied, and need not be shared"
    )
    verb.add_argument(
        "--bandwidth",
        type=_bandwidth,
        metavar="MIB",
        help="what the migration is to have, in MiB/s; default: what virsh migrate-setspeed has set for the guest",
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=run)


def _bandwidth(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of MiB/s")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Look and tell; 0 when the guest can go, 1 when something stands against it."""
    # A command line is parsed without libvirt-python as well.
    from vfmigrate.preflight.collect import Scout, Wish  # noqa: PLC0415 - with libvirt-python
    from vfmigrate.virt.session import Session  # noqa: PLC0415 - with libvirt-python

    wish = Wish(options.bandwidth, options.copy_storage_all)
    with Session(options.connect) as source, Session(options.destination) as destination:
        prospect = Scout(source, destination, socket=options.socket).look(options.domain, wish)
    lines = report.judge(prospect)
    if options.json:
        print(json.dumps(report.plain(prospect, lines), indent=2))
    else:
        for line in check_report.listed(prospect, lines):
            print(line)
    return 0 if report.can_go(lines) else Refused.exit_code
