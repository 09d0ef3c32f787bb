# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's connection to libvirt: kept open, opened again when it is lost, and the source of libvirt's events."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Optional

import libvirt

from vfmigrate import deadline, journal
from vfmigrate.config.libvirt_access import LibvirtAccess
from vfmigrate.errors import Unreachable, VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.virt.bounded import DOMAINS, Bounded
from vfmigrate.virt.errors import LibvirtError, failure_ignored, libvirt_call
from vfmigrate.virt.lifecycle import PLUGGED_IN, UNPLUGGED, LifecycleEvent
from vfmigrate.virt.login import open_connection
from vfmigrate.virt.network_metadata import STATE, NetworkMetadata

_RETRY_SECONDS = 2.0
# For the connection that is just being made, as when the daemon has just started.
_CONNECT_SECONDS = 10.0

# virDomainEventType and the details that we distinguish (libvirt-domain.h)
_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
}
_DETAILS = {
    (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED): "booted",
    (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_MIGRATED): "migrated",
    (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED): "restored",
    (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED): "migrated",
    (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED): "migrated",
}


_DEVICE_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED: PLUGGED_IN,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED: UNPLUGGED,
}
# Aliases of assigned devices, VFs of type interface included (qemuAssignDeviceHostdevAlias in
# src/qemu/qemu_alias.c), and those that users choose.
_HOSTDEV_ALIASES = ("hostdev", "ua-")


def _networks_unavailable(error: LibvirtError) -> VfmigrateError:
    return Unreachable(
        f"libvirt's networks cannot be asked: {error.reason}", "see systemctl status virtnetworkd libvirtd"
    )


@dataclass(frozen=True)
class Receiver:
    """Receives what libvirt reports, in threads of the connection: must return at once and must not call libvirt."""

    #: called for every event
    event: Callable[[LifecycleEvent], None]
    #: called after each (re)connection
    connected: Callable[[], None]
    #: called with a network and the URI of changed metadata
    network_metadata: Callable[[str, str], None]


class DaemonConnection:
    """A connection to libvirt that is reopened when it is lost; thread-safe."""

    def __init__(self, access: LibvirtAccess, log: Journal) -> None:
        self._access = access
        self._log = log
        #: what keeps the daemon from libvirt, if anything does; of one connection attempt or lost connection
        self._problem: Optional[VfmigrateError] = None
        #: what keeps it from the networks of a libvirt that answers otherwise
        self._network_problem: Optional[VfmigrateError] = None
        self.network_metadata = NetworkMetadata(self._connected, self._network_call, state=STATE)
        self._connection: Optional[Any] = None
        # until libvirtd answers, that of the library, which is of the same build
        self._version = int(libvirt.getVersion())
        self._lost = threading.Event()
        #: whether the present attempt to connect is over, with success or without
        self._attempted = threading.Event()
        self._stop = threading.Event()

    def start(self, receiver: Receiver) -> None:
        """Connect and receive events, in threads of its own."""
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print errors on stderr
        libvirt.virEventRegisterDefaultImpl()  # before the connection is opened
        threading.Thread(target=self._run_events, name="libvirt-events", daemon=True).start()
        threading.Thread(
            target=self._keep_connected, args=(receiver,), name="libvirt-connect", daemon=True
        ).start()

    def stop(self) -> None:
        """Stop reconnecting; the threads end with the process."""
        self._stop.set()
        self._lost.set()

    def _run_events(self) -> None:
        while not self._stop.is_set():
            libvirt.virEventRunDefaultImpl()

    def _keep_connected(self, receiver: Receiver) -> None:
        while not self._stop.is_set():
            self._lost.clear()
            try:
                self._use(self._connect(receiver))
            except VfmigrateError as error:
                self._connection = None
                self._note(error)
                self._attempted.set()
                self._stop.wait(_RETRY_SECONDS)
                continue
            self._attempted.set()
            receiver.connected()
            while not self._lost.wait(_RETRY_SECONDS):
                if self._network_problem is not None:
                    self._replace_for_networks(receiver)
            self._attempted.clear()
            self._connection = None

    def _use(self, connection: Any) -> None:
        with libvirt_call("connection"):
            self._version = int(connection.getLibVersion())
        self._connection = connection
        self._note(self._network_problem)

    def _replace_for_networks(self, receiver: Receiver) -> None:
        """Take a new connection if networks can be asked over it: the present one cannot, but is open all the same.

        virtqemud has a connection to virtnetworkd for each of its clients, and keeps it when virtnetworkd restarts.
        """
        old = self._connection
        try:
            new = self._connect(receiver)
            if self._network_problem is not None:
                with failure_ignored():
                    Bounded(new).close()
                return
            self._use(new)
        except VfmigrateError:
            return  # the present one still serves for the rest
        if old is not None:
            with failure_ignored():  # it would call back as lost
                old.unregisterCloseCallback()
                Bounded(old).close()
        receiver.connected()

    @contextlib.contextmanager
    def _network_call(self, what: str) -> Iterator[None]:
        """As libvirt_call, for the networks: remembers when they cannot be asked, which _keep_connected then mends."""
        try:
            with libvirt_call(what):
                yield
        except LibvirtError as error:
            # Errors of this domain come from the connection itself, not from the network driver behind it.
            if error.domain == libvirt.VIR_FROM_RPC and self._connection is not None:
                self._network_problem = _networks_unavailable(error)
                self._note(self._network_problem)
            raise

    def _note(self, problem: Optional[VfmigrateError]) -> None:
        """Keep what is wrong with the connection for `status`, and log it when it changes: attempts are frequent."""
        if str(problem) != str(self._problem):
            if problem is None:
                self._log.event("libvirt-connected", f"connected to libvirt at {self._access.uri}")
            else:
                self._log.event("libvirt-unavailable", str(problem), level=journal.WARNING)
        self._problem = problem

    def problem(self) -> Optional[VfmigrateError]:
        """What keeps the daemon from libvirt, or None. Makes no call."""
        return self._problem

    def _connect(self, receiver: Receiver) -> Any:
        """Open a connection and receive its events; `_network_problem` is what keeps it from the networks."""
        connection = open_connection(self._access.uri, lambda: self._access)
        with libvirt_call("connection"):
            self._register(connection, receiver)
        try:
            with libvirt_call("networks"):
                Bounded(connection).numOfNetworks()
        except Unreachable as error:
            self._network_problem = error
        except LibvirtError as error:
            # A libvirt without a network driver has no networks, and then none is missing.
            missing = error.code == libvirt.VIR_ERR_NO_SUPPORT
            self._network_problem = None if missing else _networks_unavailable(error)
        else:
            self._network_problem = None
        return connection

    def _register(self, connection: Any, receiver: Receiver) -> None:
        def lifecycle(_connection: object, domain: Any, event: int, detail: int, _opaque: object) -> None:
            name = _EVENTS.get(event)
            if name is not None:
                detail_name = _DETAILS.get((event, detail), str(detail))
                receiver.event(LifecycleEvent(domain.UUIDString(), domain.name(), name, detail_name))

        def device(_connection: object, domain: Any, alias: str, name: str) -> None:
            if alias.startswith(_HOSTDEV_ALIASES):
                receiver.event(LifecycleEvent(domain.UUIDString(), domain.name(), name, alias))

        def metadata(
            _connection: object, network: Any, _type: int, uri: Optional[str], _opaque: object
        ) -> None:
            if uri is not None:
                receiver.network_metadata(network.name(), uri)

        connection.registerCloseCallback(lambda *_: self._lost.set(), None)
        connection.setKeepAlive(5, 3)
        bounded = Bounded(connection)
        bounded.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
        changed = getattr(libvirt, "VIR_NETWORK_EVENT_ID_METADATA_CHANGE", None)  # from 9.8 on
        with failure_ignored():  # a libvirt without its network driver
            if changed is not None:
                bounded.networkEventRegisterAny(None, changed, metadata, None)
        for event, name in _DEVICE_EVENTS.items():
            bounded.domainEventRegisterAny(None, event, device, name)

    def _connected(self) -> Any:
        if self._connection is None:
            with deadline.waiting(DOMAINS, _CONNECT_SECONDS) as seconds:
                self._attempted.wait(seconds)
        if self._connection is None:
            problem = self._problem
            if problem is not None:
                raise Unreachable(problem.problem, problem.remedy)
            raise Unreachable(
                f"no connection to libvirt at {self._access.uri} yet",
                "see systemctl status libvirtd virtqemud",
            )
        return Bounded(self._connection)

    def known_version(self) -> int:
        """The running libvirt's version as libvirt counts: 10.3.2 is 10003002. Makes no call."""
        return self._version
