# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate check DOMAIN DESTURI`: preflight checks of a migration, printed."""

from __future__ import annotations

import argparse
from typing import Any

from vfmigrate.cli import common_options, tables
from vfmigrate.errors import Refused
from vfmigrate.preflight import report
from vfmigrate.text import say_json


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    purpose = "check whether a guest can migrate to another host, and show what would block it"
    verb = verbs.add_parser("check", help=purpose, description=purpose)
    common_options.add_domain(verb)
    verb.add_argument("destination", metavar="DESTURI", help="libvirt connection to the destination")
    common_options.add_connect(verb, "libvirt connection to the source")
    verb.add_argument(
        "--copy-storage-all", action="store_true", help="disks will be copied, so they need not be shared"
    )
    verb.add_argument(
        "--bandwidth",
        type=common_options.positive,
        metavar="MIB",
        help="bandwidth of the migration in MiB/s; default: the guest's limit (virsh migrate-getspeed)",
    )
    verb.add_argument(
        "-v", "--verbose", action="store_true", help="show all results, not only warnings and errors"
    )
    common_options.add_json(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Collect, judge and print; 0 if the guest can migrate, 1 if something blocks it."""
    # A command line is parsed without libvirt-python as well.
    from vfmigrate.preflight.collect import CheckOptions, Collector  # noqa: PLC0415 - libvirt
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    wanted = CheckOptions(options.bandwidth, options.copy_storage_all)
    with LibvirtConnection(options.connect) as source, LibvirtConnection(options.destination) as destination:
        snapshot = Collector(source, destination, socket=options.socket).collect(options.domain, wanted)
    results = report.judge(snapshot)
    answer = report.plain(snapshot, results)
    if options.json:
        say_json(answer)
    else:
        tables.show(lambda width: tables.check(answer, width, verbose=options.verbose))
    return 0 if report.can_migrate(results) else Refused.exit_code
