# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrated: the only part of vfmigrate with privileges, and the owner of the claims.

Puts the parts together and answers what the hook and the CLI ask over the socket, which systemd hands over so that it
is there also while the daemon is being restarted; in the foreground it makes the socket itself.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, Optional

from vfmigrate import journal, uninterruptible
from vfmigrate.announce.announcer import Announcer
from vfmigrate.cards import registry
from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.config import configuration
from vfmigrate.config.configuration import Config
from vfmigrate.converge.converger import Converger
from vfmigrate.converge.observe import Host
from vfmigrate.converge.services import HostServices
from vfmigrate.daemon import hook_handler, pci_reader
from vfmigrate.daemon.config_reload import ConfigReload, fingerprint
from vfmigrate.daemon.domain_sync import DomainSync
from vfmigrate.daemon.event_history import EventHistory
from vfmigrate.daemon.event_loop import EventLoop
from vfmigrate.daemon.hook_handler import REFUSING, HookHandler
from vfmigrate.daemon.inventory import Inventory
from vfmigrate.daemon.libvirt_events import LibvirtEvents
from vfmigrate.daemon.observation import Observer
from vfmigrate.daemon.options import arguments
from vfmigrate.daemon.reconciler import Listeners, Reconciler
from vfmigrate.daemon.remote_requests import RemoteRequests
from vfmigrate.daemon.status import Status
from vfmigrate.daemon.watchdog import (
    PROVISION_SECONDS,
    REQUEST_SECONDS,
    Watchdog,
    notify,
)
from vfmigrate.errors import ConfigError, HostError, VfmigrateError
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.links import Links
from vfmigrate.host.local_files import LocalFiles
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.systemd import Systemd
from vfmigrate.host.udev import Udev
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.offload import HardwareOffload
from vfmigrate.ovs.openvswitch import OpenVswitch
from vfmigrate.provision.device_query import DeviceQuery
from vfmigrate.provision.early import EarlyProvisioner
from vfmigrate.provision.provisioner import Provisioner
from vfmigrate.reservations.client_requests import ClientRequests
from vfmigrate.reservations.departures import Departures
from vfmigrate.rpc import protocol
from vfmigrate.rpc.remote_server import RemoteServer
from vfmigrate.rpc.server import Server, listening_socket
from vfmigrate.strategies.failover.primary_watch import PrimaryWatch
from vfmigrate.strategies.replug.arrivals import Arrivals
from vfmigrate.text import command, complain
from vfmigrate.version import VERSION
from vfmigrate.virt.daemon_connection import Receiver
from vfmigrate.virt.hypervisor import Hypervisor

#: what the main thread waits for: SIGHUP takes over the configuration, the others end the daemon
SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
#: for how long the network waits at boot for a card that does not appear
EARLY_SECONDS = 30.0


class Daemon:
    """The parts, put together."""

    def __init__(self, config_file: Path, claims: Path, log: Journal) -> None:
        """Read the configuration. Raises ConfigError, or HostError when the claims cannot be used."""
        read = fingerprint(config_file)  # before the files are read: what changes in between is not missed
        self.config = settings = configuration.load(config_file)
        self.config_reload = ConfigReload(config_file, settings, read, log)
        self.log = log
        self.store = ClaimStore(claims)
        for claim in self.store.all():
            if claim.trace is not None:
                log.traces.follow(claim.domain, claim.trace)
        systemd = Systemd()
        vendors = registry.known()
        reader = None if pci_reader.is_privileged() else pci_reader.PciReader()
        if reader is not None:
            vendors = vendors.reading_settings_by(reader.migration_setting)
        self.host = Host(
            Sysfs(
                load=systemd.load_module,
                config=reader.config_spaces if reader is not None else None,
                own=(os.getpid(),),  # a VF that we ask ourselves is free all the same
            ),
            Devlink(remedies=vendors.kernel_remedies()),
            Links(),
            OpenVswitch(settings.ovsdb),
            vendors,
        )
        hypervisor = Hypervisor(settings.libvirt, log)
        converger = Converger(self.host, settings, self.store, libvirt_version=hypervisor.known_version)
        services = HostServices(settings, self.host, self.store, converger, log)
        departures = Departures(self.store, log, hypervisor.migrating)
        self.announcer = Announcer(settings, self.host, self.store, log)
        self.hook_handler = HookHandler(services, on_started=self.announcer.warm)
        self.watchdog = Watchdog(log)
        self.event_loop = EventLoop(
            log,
            period=lambda: settings.reconcile_interval,
            working=self.watchdog.working,
        )
        domain_sync = DomainSync(
            services,
            self.hook_handler.adoption,
            hypervisor,
            self.event_loop.later,
            on_unplugged=departures.unplugged,
        )

        def replug(claim: Claim) -> None:
            # The guest may take long to release the VF, and all other work must not wait for it.
            self.event_loop.apart(lambda: domain_sync.plug_again(claim), "plug-again")

        self.primaries = PrimaryWatch(services, self.announcer, replug=replug, apart=self.event_loop.apart)
        self.arrivals = Arrivals(
            services, hypervisor, on_plugged=domain_sync.settle_soon, apart=self.event_loop.apart
        )
        remote_requests = RemoteRequests(settings, self.do, hypervisor.xml)
        self.remote_server = RemoteServer(hypervisor.network_metadata, remote_requests.answer, log)

        def resumed(uuid: str) -> None:
            self.hook_handler.slots.arrived(uuid)
            self.primaries.expect(uuid)
            self.arrivals.expect(uuid)

        def look(running: Container[str]) -> None:
            departures.look(running)
            self.remote_server.sweep_soon()

        query = DeviceQuery(services)
        self.reconciler = Reconciler(
            services, domain_sync, self.announcer, hypervisor, Listeners(resumed, look, query.ask)
        )
        events = LibvirtEvents(
            services,
            domain_sync,
            self.announcer,
            self.event_loop,
            on_resumed=resumed,
            on_started=self.hook_handler.slots.arrived,
        )
        self._hypervisor = hypervisor
        self._receiver = Receiver(events.handle, self.event_loop.period_now, self.remote_server.enqueue)
        self.client_requests = ClientRequests(
            services,
            on_kept=domain_sync.settle_soon,
            departures=departures,
            slots=self.hook_handler.slots,
        )
        offload = HardwareOffload(systemd.restart)
        self.provisioner = Provisioner(
            services, self.reconciler.networks, udev=Udev(), offload=offload, query=query
        )
        problems = (hypervisor.problem, self.config_reload.problem, uninterruptible.problem)
        observer = Observer(services, offload, self.provisioner.check, query.known, problems)
        self.status = Status(
            services,
            observer,
            self.hook_handler.slots,
            missing=self.arrivals.missing,
        )
        local_files = LocalFiles(self.host.ovs.bridge_exists)
        self.event_history = EventHistory()
        self.inventory = Inventory(services, observer, hypervisor.migrating, local_files, hypervisor.storage)

    def reload(self) -> None:
        """Take over a changed configuration, and reconcile with it."""
        notify("RELOADING=1")
        self.config_reload.reload(self._reloaded)
        notify("READY=1")

    def _reloaded(self) -> None:
        self._publish_devices()
        self.event_loop.period_now()

    def _publish_devices(self) -> None:
        try:
            self.provisioner.publish_devices()
        except VfmigrateError as error:
            self.log.failed("provision-failed", error)

    def start(self) -> None:
        """Log claims that could not be read, and start the threads of the daemon."""
        for broken in self.store.broken:
            self.log.event("claim-broken", broken, level=journal.WARNING)
        pools, claims = self.config.pool_names(), len(self.store.all())
        self.log.event("up", f"vfmigrated {VERSION}; pools: {pools}; claims: {claims}")
        self._publish_devices()
        self.remote_server.start()
        self.watchdog.start()
        self.event_loop.apart(self.reconciler.finish_releases, "finish-releases")
        self.event_loop.start(self.reconciler.reconcile)
        self._hypervisor.start(self._receiver)
        self.primaries.start()
        self.arrivals.start()

    def stop(self) -> None:
        """Stop the threads of the daemon."""
        self.watchdog.stop()
        self._hypervisor.stop()
        self.event_loop.stop()
        self.remote_server.stop()
        self.primaries.stop()
        self.arrivals.stop()
        self.announcer.stop()
        self.store.close()
        self.log.event("down", "vfmigrated ends; claims stay")

    def answer(self, request: protocol.Request, uid: int) -> dict[str, Any]:
        """Answer a request of a user; raises VfmigrateError and nothing else."""
        protocol.authorize(request, uid, self.config.readers, self.config.clients)
        return self.do(request)

    def do(self, request: protocol.Request) -> dict[str, Any]:
        """Answer a request of somebody who may ask it; raises VfmigrateError and nothing else."""
        try:
            with self.watchdog.working(f"request '{request.name}'", self._seconds(request)):
                return self._do(request)
        except VfmigrateError as error:
            raise self.config_reload.explained(error) from None
        except Exception as error:  # noqa: BLE001 - reported below
            # Whatever nobody foresaw must reach the administrator as a line, not as silence.
            message = self.log.bug(error)
            raise VfmigrateError(message, "report it with the output of journalctl -t vfmigrated") from None

    def _seconds(self, request: protocol.Request) -> float:
        """How long a request may take."""
        if request.name == "hook":
            return hook_handler.seconds(
                request.text("operation"), self._happened(request), self.store.clock()
            )
        if request.name == "provision":
            return PROVISION_SECONDS + request.seconds("wait", at_most=protocol.LONGEST_WAIT)
        return REQUEST_SECONDS

    @staticmethod
    def _happened(request: protocol.Request) -> Optional[float]:
        """When libvirt called the hook, in seconds of the claims' clock."""
        at_ms = request.optional_number("at_ms", 0, 1 << 62)
        return None if at_ms is None else at_ms / 1000

    def _do(self, request: protocol.Request) -> dict[str, Any]:
        if request.name == "hook":
            operation = request.text("operation")
            if operation in REFUSING and request.sender_left():
                # It waited while the daemon stood still, and libvirt has refused the guest since. The hook that says
                # so may have been answered before this one.
                self.log.event(
                    "hook-left", f"{operation}: the hook ended before it was answered, so nothing was done"
                )
                raise HostError(f"the hook that requested {operation} has ended")
            xml = self.hook_handler.handle(
                operation,
                request.text("sub_operation"),
                request.text("extra"),
                request.text("xml"),
                name=request.optional_text("domain") or "",
                happened=self._happened(request),
            )
            return {} if xml is None else {"xml": xml}
        if request.name == "reconcile":
            self.arrivals.try_again()
            with journal.failures() as failures:
                changes = self.reconciler.reconcile()
            return {"changes": changes, "problems": [protocol.plain(each) for each in failures]}
        if request.name == "provision":
            return self._provision(request)
        if request.name in protocol.RESERVING:
            return self.client_requests.answer(request)
        return self._tell(request)

    def _tell(self, request: protocol.Request) -> dict[str, Any]:
        if request.name == "status":
            return self.status.collect()
        if request.name == "facts":
            return self.inventory.answer(request)
        if request.name == "trace":
            return self.event_history.answer(request)
        return {"version": VERSION}

    def _provision(self, request: protocol.Request) -> dict[str, Any]:
        pools, dry_run = request.words("pools"), request.flag("dry_run")
        patience = request.seconds("wait", at_most=protocol.LONGEST_WAIT)
        if "pf" not in request.arguments:
            return self.provisioner.provision(pools, dry_run=dry_run, patience=patience)
        pf = PciAddress.parse(request.text("pf"))
        return self.provisioner.provision_pf(pf, dry_run=dry_run, patience=patience)


def _early(settings: Config, log: Journal) -> int:
    """Provision what comes before the network; returns the exit status."""
    if not settings.pools:
        return 0
    vendors = registry.known()
    host = Host(
        Sysfs(),
        Devlink(remedies=vendors.kernel_remedies()),
        Links(),
        OpenVswitch(settings.ovsdb),  # which is not asked: it does not run yet
        vendors,
    )
    early = EarlyProvisioner(settings, host, Udev(), log, patience=EARLY_SECONDS)
    return 0 if early.run() else HostError.exit_code


def check_command(config: Path) -> str:
    """The command that checks a configuration."""
    default = config == configuration.DEFAULT_PATH
    return command("vfmigrated", "--check", *([] if default else ["--config", str(config)]))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    options = arguments().parse_args(argv)
    log = Journal()
    try:
        if options.check:
            configuration.load(options.config)
            return 0
        if options.early:
            return _early(configuration.load(options.config), log)
        daemon = Daemon(options.config, options.claims, log)
        listener = listening_socket(options.socket)
    except ConfigError as error:
        check = (
            []
            if options.check
            else [f"vfmigrated does not start; check it with: {check_command(options.config)}"]
        )
        complain("vfmigrated", error.with_remedy("; ".join([*filter(None, [error.remedy]), *check])))
        return error.exit_code
    except VfmigrateError as error:
        complain("vfmigrated", error)
        return error.exit_code
    # The stacks of all threads, on standard error: when systemd's watchdog ends the process, and by
    # `systemctl kill --signal=USR1 vfmigrated` for whoever looks into a hang.
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    server = Server(listener, daemon.answer)
    daemon.start()
    server.start()
    # Everything loaded so far lives as long as the process: keep the collector from walking it at every turn.
    gc.collect()
    gc.freeze()
    notify("READY=1")
    while signal.sigwait(SIGNALS) == signal.SIGHUP:
        daemon.reload()
    notify("STOPPING=1")
    daemon.hook_handler.slots.close()
    server.stop()
    daemon.stop()
    return 0
