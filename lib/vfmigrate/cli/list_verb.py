# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate list`: the guests of this host that have VFs, and whether they can leave it."""

from __future__ import annotations

import argparse
from typing import Any

from vfmigrate.cli import common_options, tables
from vfmigrate.text import complain, say_json

SCHEMA = 1


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    purpose = "list the guests that have VFs, and whether they can leave this host"
    verb = verbs.add_parser("list", help=purpose, description=purpose)
    verb.add_argument("--all", action="store_true", help="guests that do not run, too")
    common_options.add_connect(verb)
    common_options.add_json(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Collect and print; the exit status is that of the daemon's error if it does not answer."""
    # A command line is parsed without libvirt-python as well.
    from vfmigrate.preflight import guest_list  # noqa: PLC0415 - lxml
    from vfmigrate.preflight.collect import observed_host  # noqa: PLC0415 - libvirt
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    with LibvirtConnection(options.connect) as connection:
        source = observed_host(connection, options.socket)
        networks = connection.hostdev_networks()
        found = [
            guest_list.listed(each, source, networks) for each in connection.guests(inactive=options.all)
        ]
    guests = [each.plain() for each in found if each is not None]
    if options.json:
        say_json({"schema": SCHEMA, "host": source.name, "guests": guests})
    else:
        tables.show(lambda width: tables.guests(guests, width))
    if source.trouble is not None:
        complain("vfmigrate", source.trouble)
        return source.trouble.exit_code
    return 0
