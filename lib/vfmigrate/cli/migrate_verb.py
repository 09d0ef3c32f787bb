# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate migrate`: checks, migrates, watches and verifies one guest.

Works through libvirt of both hosts with the user's own rights.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from vfmigrate.cli import common_options, display, keyboard
from vfmigrate.cli.common_options import positive
from vfmigrate.domain.migrating_vf import migrating_vfs
from vfmigrate.errors import HostError, Refused, UsageError, VfmigrateError
from vfmigrate.migrate.convergence import ConvergenceLimits
from vfmigrate.migrate.migration_log import MigrationLog
from vfmigrate.migrate.workflow import Migration, MigrationReport
from vfmigrate.model import strategy
from vfmigrate.model.migration_options import MigrationOptions
from vfmigrate.model.progress import Display
from vfmigrate.preflight import fallback
from vfmigrate.preflight import report as preflight_report
from vfmigrate.preflight.snapshot import CheckResult
from vfmigrate.rpc import protocol
from vfmigrate.rpc.remote_client import RemoteClient
from vfmigrate.rules.findings import ERROR, WARNING
from vfmigrate.strategies.replug.replug_hosts import HostClients
from vfmigrate.text import command

if TYPE_CHECKING:
    from vfmigrate.virt.connection import LibvirtConnection

#: the longest downtime allowed by default, in ms: the time for a VF's state on a fast network
MAX_DOWNTIME_MS = 1000


def add(verbs: Any) -> None:
    """Add the verb to a parser's."""
    purpose = "migrate a guest with its VFs, watch the migration, and verify the VFs afterwards"
    verb = verbs.add_parser("migrate", help=purpose, description=purpose)
    common_options.add_domain(verb, "name or UUID of the running guest")
    verb.add_argument("desturi", metavar="DESTURI", help="libvirt connection to the destination")
    common_options.add_connect(verb, "libvirt connection to the source")
    common_options.add_json(verb, common_options.EVENTS)
    verb.add_argument("--unchecked", action="store_true", help="migrate even if vfmigrate check finds errors")
    verb.add_argument(
        "--fallback",
        choices=(strategy.REPLUGGED.name,),
        help="replug VFs whose state cannot travel",
    )
    verb.add_argument(
        "--allow-outage",
        action="store_true",
        help="also if the guest has only VFs",
    )
    _add_virsh_options(verb)
    verb.set_defaults(run=_migrate)


def _add_virsh_options(verb: argparse.ArgumentParser) -> None:
    """Add the options that `virsh migrate` has under the same names."""
    verb.add_argument("--live", action="store_true", help="accepted for virsh compatibility; always live")
    verb.add_argument("--persistent", action="store_true", help="define the guest on the destination")
    verb.add_argument("--undefinesource", action="store_true", help="undefine the guest on the source")
    verb.add_argument(
        "--migrateuri", metavar="URI", help="URI that QEMU connects to; default: libvirt chooses"
    )
    add_pace(verb)


def add_pace(verb: argparse.ArgumentParser) -> None:
    """Add the options for copying a guest's memory and disks, whichever guest and destination."""
    verb.add_argument(
        "--max-downtime",
        type=positive,
        default=MAX_DOWNTIME_MS,
        metavar="MS",
        help="longest downtime to allow if a shorter one is not enough (default: %(default)s)",
    )
    disks = verb.add_mutually_exclusive_group()
    for kind, purpose in (
        ("all", "copy disks that are not shared"),
        ("inc", "copy only their differences from base images"),
    ):
        disks.add_argument(
            f"--copy-storage-{kind}", dest="copy_storage", action="store_const", const=kind, help=purpose
        )
    verb.add_argument("--parallel", action="store_true", help="copy memory over several connections")
    verb.add_argument(
        "--parallel-connections",
        type=positive,
        metavar="N",
        help="number of connections; QEMU's default: 2",
    )
    verb.add_argument("--bandwidth", type=positive, metavar="MIB", help="limit the bandwidth to MIB MiB/s")
    verb.add_argument(
        "--timeout",
        type=positive,
        metavar="SECONDS",
        help="suspend the guest if the migration takes longer than SECONDS",
    )
    verb.add_argument(
        "--timeout-cancel", action="store_true", help="at the timeout, cancel the migration instead"
    )
    verb.add_argument("--tls", action="store_true", help="encrypt the migration with TLS")
    verb.add_argument(
        "--p2p", action="store_true", help="peer to peer: the source's libvirt connects to DESTURI"
    )
    verb.add_argument(
        "--auto-converge", action="store_true", help="slow the guest's CPUs down until memory converges"
    )
    verb.add_argument("--unsafe", action="store_true", help="migrate even if a disk's cache mode is unsafe")


def check_options(options: argparse.Namespace) -> None:
    """Raises UsageError for options that have no effect without another option."""
    for one, other in (
        ("parallel_connections", "parallel"),
        ("timeout_cancel", "timeout"),
        ("undefinesource", "persistent"),
        ("allow_outage", "fallback"),
    ):
        if getattr(options, one, None) and not getattr(options, other, None):
            raise UsageError(f"--{one.replace('_', '-')} needs --{other.replace('_', '-')}")


@dataclass(frozen=True)
class MigrationRequest:
    """Which guest to migrate, to where, and how."""

    domain: str
    destination_uri: str
    options: MigrationOptions
    max_downtime_ms: int = MAX_DOWNTIME_MS
    #: seconds; None: no limit
    timeout: Optional[int] = None
    cancel_at_timeout: bool = False
    #: the socket of this host's daemon, to run the preflight checks first; None: migrate unchecked
    checked_by: Optional[Path] = None
    #: replug VFs whose state cannot travel; and also of a guest that would be without network meanwhile
    falls_back: bool = False
    allow_outage: bool = False


def request_of(options: argparse.Namespace, destination_uri: str, domain: str) -> MigrationRequest:
    """The request with the options that `add_pace` adds: unchecked, and without a change of the definitions."""
    return MigrationRequest(
        domain,
        destination_uri,
        MigrationOptions(
            copy_storage=options.copy_storage,
            parallel=options.parallel,
            parallel_connections=options.parallel_connections,
            bandwidth=options.bandwidth,
            tls=options.tls,
            p2p=options.p2p,
            auto_converge=options.auto_converge,
            unsafe=options.unsafe,
        ),
        max_downtime_ms=options.max_downtime,
        timeout=options.timeout,
        cancel_at_timeout=options.timeout_cancel,
    )


def _request(options: argparse.Namespace) -> MigrationRequest:
    """The request of this verb's command line."""
    common = request_of(options, options.desturi, options.domain)
    own = replace(
        common.options,
        persistent=options.persistent,
        undefine_source=options.undefinesource,
        migrate_uri=options.migrateuri,
    )
    return replace(
        common,
        options=own,
        checked_by=None if options.unchecked else options.socket,
        falls_back=options.fallback is not None,
        allow_outage=options.allow_outage,
    )


def _migrate(options: argparse.Namespace) -> int:
    # a command line is parsed without libvirt-python as well
    from vfmigrate.virt.connection import LibvirtConnection  # noqa: PLC0415 - libvirt

    check_options(options)
    if options.unchecked and options.fallback is not None:
        raise UsageError("--fallback needs the checks, and --unchecked skips them")
    with (
        LibvirtConnection(options.connect) as source,
        LibvirtConnection(options.desturi) as destination,
        display.displayed(as_json=options.json) as shown,
        keyboard.interruptible() as cancelled,
    ):
        try:
            report = run(_request(options), source, destination, shown, cancelled)
        except VfmigrateError as error:
            if options.json:
                shown.event("failed", str(error), **protocol.plain(error))
            raise
        shown.event("end", "\n".join(summary(report)), **asdict(report))
    if report.problems:
        raise HostError(f"guest '{options.domain}' has arrived with problems: {'; '.join(report.problems)}")
    return 0


def run(
    request: MigrationRequest,
    source: LibvirtConnection,
    destination: LibvirtConnection,
    shown: Display,
    cancelled: threading.Event,
) -> MigrationReport:
    """Migrate one guest as requested, and return when it has arrived. Raises VfmigrateError if it did not."""
    migration = _prepared(request, source, destination, shown, cancelled)
    trace = migration.trace()
    text = f"migrating guest '{migration.name}' to {destination.hostname()}{_strategies(migration)}"
    shown.event(
        "begin",
        text,
        domain=migration.name,
        uuid=migration.uuid,
        destination=destination.hostname(),
        vfs=[{"mac": one.mac, "strategy": one.strategy.name} for one in migration.migrating_vfs],
        trace=trace,
    )
    with MigrationLog(migration, destination.hostname(), text, trace):
        if migration.migrating_vfs:
            migration.fall_back(_check(request, source, destination, shown))
        return _run(migration, request)


def _run(migration: Migration, request: MigrationRequest) -> MigrationReport:
    limits = ConvergenceLimits(
        max_downtime_ms=request.max_downtime_ms,
        vfs=any(one.strategy.state_travels and not one.falls_back for one in migration.migrating_vfs),
        limited=request.options.bandwidth is not None,
        parallel=request.options.parallel,
    )
    return migration.run(
        request.options, limits, timeout=request.timeout, cancel_at_timeout=request.cancel_at_timeout
    )


def _check(
    request: MigrationRequest, source: LibvirtConnection, destination: LibvirtConnection, shown: Display
) -> tuple[str, ...]:
    """Run the preflight checks if they are wanted; shows warnings, and raises Refused for errors.

    Returns the MACs of VFs to replug because their state cannot travel.
    """
    if request.checked_by is None:
        return ()
    from vfmigrate.preflight.collect import CheckOptions, Collector  # noqa: PLC0415 - libvirt

    wanted = CheckOptions(request.options.bandwidth, request.options.copy_storage is not None)
    snapshot = Collector(source, destination, socket=request.checked_by).collect(request.domain, wanted)
    if request.falls_back:
        planned = fallback.plan(snapshot, allow_outage=request.allow_outage)
    else:
        planned = fallback.Fallback((), (), tuple(preflight_report.judge(snapshot)))
    for each in planned.results:
        if each.severity == WARNING:
            text = f"warning: {each.text}; {each.remedy}" if each.remedy else f"warning: {each.text}"
            shown.event("warning", text, side=each.side, check=each.check)
    refuse(request.domain, [each for each in planned.results if each.severity == ERROR])
    for mac in planned.macs:
        shown.event(
            "fallback",
            f"{mac}: its state cannot travel, so it will be unplugged and replaced: {planned.reasons[0]}",
            mac=mac,
            reasons=list(planned.reasons),
        )
    return planned.macs


def refuse(name: str, errors: Sequence[CheckResult]) -> None:
    """Raises Refused with the first of these errors, if any, and their number."""
    if not errors:
        return
    first, more = errors[0], len(errors) - 1
    others = f" (and {more} more; vfmigrate check lists all)" if more else ""
    raise Refused(f"guest '{name}' cannot migrate: {first.text}{others}", first.remedy)


def _prepared(
    request: MigrationRequest,
    source: LibvirtConnection,
    destination: LibvirtConnection,
    shown: Display,
    cancelled: threading.Event,
) -> Migration:
    from vfmigrate.virt.connection import refuse_same_host  # noqa: PLC0415 - libvirt
    from vfmigrate.virt.hot_plug import HotPlug  # noqa: PLC0415 - libvirt
    from vfmigrate.virt.migration_job import MigrationJob  # noqa: PLC0415 - libvirt

    refuse_same_host(source, destination, request.domain)
    if not source.is_running(request.domain):
        raise Refused(
            f"guest '{request.domain}' is not running",
            "to migrate its definition, run: virsh migrate --offline --persistent "
            f"{command(request.domain, request.destination_uri)}",
        )

    def clients(connection: LibvirtConnection) -> HostClients:
        return HostClients(
            RemoteClient(connection.network_metadata(), connection.hostname()),
            HotPlug(connection, transfer.uuid),
        )

    transfer = MigrationJob(source, destination, request.destination_uri, request.domain)
    return Migration(
        transfer,
        migrating_vfs(transfer.xml("source")),
        shown,
        cancelled,
        source=clients(source),
        destination=clients(destination),
    )


def _strategies(migration: Migration) -> str:
    found = [f"{one.mac or 'a VF without MAC'} by {one.strategy}" for one in migration.migrating_vfs]
    return f" with {', '.join(found)}" if found else ""


def summary(report: MigrationReport) -> Iterator[str]:
    """The lines for a guest that has arrived."""
    yield f"arrived after {report.total_ms / 1000:.1f} s"
    if report.downtime_ms is not None:
        yield f"downtime {report.downtime_ms} ms (by libvirt)"
    if report.standstill_ms is not None:
        yield (
            f"stopped for about {report.standstill_ms:.0f} ms (estimated from libvirt's events, as this command "
            "received them; without the network's part)"
        )
    for mac, away in report.away_ms.items():
        yield f"{mac} had no VF for {away / 1000:.1f} s, and used the other port of the bond"
    for mac, verified in report.verified.items():
        yield f"{mac} {verified}"
