# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate where DOMAIN DESTURI...`: which of several hosts could take a guest, and why the others could not."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.cli import common_options, tables
from vfmigrate.errors import Refused, VfmigrateError
from vfmigrate.rpc import protocol
from vfmigrate.rules.findings import ERROR
from vfmigrate.text import say_json

if TYPE_CHECKING:
    from vfmigrate.preflight.snapshot import HostSnapshot, Snapshot
    from vfmigrate.virt.connection import LibvirtConnection

SCHEMA = 1

#: hosts that are asked at the same time
_AT_ONCE = 8


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    purpose = "show which of several hosts could take a guest, and why the others could not"
    verb = verbs.add_parser("where", help=purpose, description=purpose)
    common_options.add_domain(verb)
    verb.add_argument("desturi", nargs="+", metavar="DESTURI", help="libvirt connections to the hosts")
    common_options.add_connect(verb, "libvirt connection to the source")
    verb.add_argument(
        "--copy-storage-all", action="store_true", help="disks will be copied, so they need not be shared"
    )
    common_options.add_json(verb)
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask all hosts and print; 0 if at least one can take the guest, else 1."""
    # A command line is parsed without libvirt-python as well.
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    with LibvirtConnection(options.connect) as source:
        source.domain(options.domain)  # one that does not exist is one error, not one of each host

        def ask(uri: str) -> tuple[dict[str, Any], Optional[Snapshot]]:
            return _host(options, source, uri)

        with ThreadPoolExecutor(_AT_ONCE) as asking:
            answers = list(asking.map(ask, dict.fromkeys(options.desturi)))
    hosts = [host for host, _ in answers]
    snapshots = [snapshot for _, snapshot in answers if snapshot is not None]
    answer = {
        "schema": SCHEMA,
        "guest": options.domain,
        "hosts": hosts,
        "cards": cards(snapshots),
    }
    if options.json:
        say_json(answer)
    else:
        tables.show(lambda width: tables.where(answer, width))
    return 0 if any(host["can_take"] for host in hosts) else Refused.exit_code


def _host(
    options: argparse.Namespace, source: LibvirtConnection, uri: str
) -> tuple[dict[str, Any], Optional[Snapshot]]:
    """What one host is reported as, and what was collected of it."""
    from vfmigrate.preflight import report  # noqa: PLC0415 - lxml
    from vfmigrate.preflight.collect import CheckOptions, Collector  # noqa: PLC0415 - libvirt
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    host: dict[str, Any] = {"uri": uri, "name": None, "can_take": None, "problems": [], "error": None}
    try:
        with LibvirtConnection(uri) as destination:
            host["name"] = destination.hostname()
            collector = Collector(source, destination, socket=options.socket)
            snapshot = collector.collect(options.domain, CheckOptions(None, options.copy_storage_all))
    except VfmigrateError as error:
        refused = isinstance(error, Refused)
        return {**host, "can_take": False if refused else None, "error": protocol.plain(error)}, None
    results = report.judge(snapshot)
    problems = [each.problem() for each in results if each.severity == ERROR]
    return {**host, "can_take": report.can_migrate(results), "problems": problems}, snapshot


def cards(snapshots: Sequence[Snapshot]) -> list[dict[str, Any]]:
    """PSID, firmware and free VFs of each PF of the pools that the guest uses: of the source, then of the others."""
    if not snapshots:
        return []
    pools = {vf.pool for vf in snapshots[0].vfs}
    hosts = [snapshots[0].source, *(each.destination for each in snapshots)]
    return [card for host in hosts for card in _cards(host, pools)]


def _cards(host: HostSnapshot, pools: Collection[Optional[str]]) -> list[dict[str, Any]]:
    return [
        {
            "host": host.name,
            "pool": pool.name,
            "pf": pf.address,
            "psid": pf.psid,
            "firmware": pf.firmware,
            "free": pf.free if pf.problem is None else None,
        }
        for pool in (host.facts.pools if host.facts is not None else ())
        if pool.name in pools
        for pf in pool.pfs
    ]
