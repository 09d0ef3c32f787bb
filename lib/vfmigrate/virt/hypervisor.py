# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's connection to libvirt: events, running domains and networks.

It is never used while a hook waits for an answer, nor with a lock held: libvirt holds the lock of a domain while it
runs the hook.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Callable, Optional

import libvirt

from vfmigrate import deadline, journal
from vfmigrate.config.libvirt_access import LibvirtAccess
from vfmigrate.domain import metadata, storage_xml
from vfmigrate.domain.domain_xml import device, read
from vfmigrate.domain.network_xml import NetworkState
from vfmigrate.domain.storage_xml import KnownStorage
from vfmigrate.errors import HostError, Unreachable, VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.virt.bounded import Bounded
from vfmigrate.virt.errors import LibvirtError, failure_ignored, libvirt_call
from vfmigrate.virt.lifecycle import PLUGGED_IN, UNPLUGGED, LifecycleEvent
from vfmigrate.virt.login import open_connection
from vfmigrate.virt.network_metadata import STATE, NetworkMetadata
from vfmigrate.virt.unplug import unplug

_RETRY_SECONDS = 2.0
# For looking at all domains of the host, of which some may not be answered about.
_SURVEY_SECONDS = 30.0
# For what a client that asks for the facts of this host waits for.
_STORAGE_SECONDS = 4.0
# How long a guest can take to release a device.
_UNPLUG_SECONDS = 45.0


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


def _transient_device(domain: Any, mac: str) -> Optional[str]:
    """The XML of the VF with this MAC in a domain's failover pair, a network not resolved."""
    xml = str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
    for interface in read(xml).interfaces:
        if interface.teaming == "transient" and interface.wanted_mac == mac:
            return device(xml, interface.position)
    return None


def _networks_unavailable(error: LibvirtError) -> VfmigrateError:
    return Unreachable(
        f"libvirt's networks cannot be asked: {error.reason}", "see systemctl status virtnetworkd libvirtd"
    )


class Hypervisor:
    """A connection to libvirt that is reopened when it is lost; thread-safe."""

    def __init__(self, access: LibvirtAccess, log: Journal) -> None:
        self._access = access
        self._log = log
        #: what keeps the daemon from libvirt, if anything does; of one connection attempt or lost connection
        self._problem: Optional[VfmigrateError] = None
        #: what keeps it from the networks of a libvirt that answers otherwise
        self._network_problem: Optional[VfmigrateError] = None
        self._on_event: Callable[[LifecycleEvent], None] = lambda _event: None
        self._on_connect: Callable[[], None] = lambda: None
        self._on_network_metadata: Callable[[str, str], None] = lambda _network, _uri: None
        self.network_metadata = NetworkMetadata(self._connected, self._network_call, state=STATE)
        self._connection: Optional[Any] = None
        # until libvirtd answers, that of the library, which is of the same build
        self._version = int(libvirt.getVersion())
        self._lost = threading.Event()
        self._stop = threading.Event()

    def start(
        self,
        on_event: Callable[[LifecycleEvent], None],
        on_connect: Callable[[], None],
        on_network_metadata: Callable[[str, str], None],
    ) -> None:
        """Connect and receive events, in threads of its own.

        `on_event` is called for every event, `on_connect` after each (re)connection, `on_network_metadata` with a
        network and the URI of changed metadata, all from those threads: they must return at once and must not call
        libvirt.
        """
        self._on_event = on_event
        self._on_connect = on_connect
        self._on_network_metadata = on_network_metadata
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it would print errors on stderr
        libvirt.virEventRegisterDefaultImpl()  # before the connection is opened
        threading.Thread(target=self._run_events, name="libvirt-events", daemon=True).start()
        threading.Thread(target=self._keep_connected, name="libvirt-connect", daemon=True).start()

    def stop(self) -> None:
        """Stop reconnecting; the threads end with the process."""
        self._stop.set()
        self._lost.set()

    def _run_events(self) -> None:
        while not self._stop.is_set():
            libvirt.virEventRunDefaultImpl()

    def _keep_connected(self) -> None:
        while not self._stop.is_set():
            self._lost.clear()
            try:
                self._use(self._connect())
            except VfmigrateError as error:
                self._connection = None
                self._note(error)
                self._stop.wait(_RETRY_SECONDS)
                continue
            self._on_connect()
            while not self._lost.wait(_RETRY_SECONDS):
                if self._network_problem is not None:
                    self._replace_for_networks()
            self._connection = None

    def _use(self, connection: Any) -> None:
        with libvirt_call("connection"):
            self._version = int(connection.getLibVersion())
        self._connection = connection
        self._note(self._network_problem)

    def _replace_for_networks(self) -> None:
        """Take a new connection if networks can be asked over it: the present one cannot, but is open all the same.

        virtqemud has a connection to virtnetworkd for each of its clients, and keeps it when virtnetworkd restarts.
        """
        old = self._connection
        try:
            new = self._connect()
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
        self._on_connect()

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

    def problem(self) -> Optional[str]:
        """What keeps the daemon from libvirt, or None. Makes no call."""
        return None if self._problem is None else str(self._problem)

    def _connect(self) -> Any:
        """Open a connection and receive its events; `_network_problem` is what keeps it from the networks."""
        connection = open_connection(self._access.uri, lambda: self._access)
        with libvirt_call("connection"):
            self._register(connection)
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

    def _register(self, connection: Any) -> None:
        connection.registerCloseCallback(lambda *_: self._lost.set(), None)
        connection.setKeepAlive(5, 3)
        bounded = Bounded(connection)
        bounded.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
        changed = getattr(libvirt, "VIR_NETWORK_EVENT_ID_METADATA_CHANGE", None)  # from 9.8 on
        with failure_ignored():  # a libvirt without its network driver
            if changed is not None:
                bounded.networkEventRegisterAny(None, changed, self._network_metadata, None)
        for event, name in _DEVICE_EVENTS.items():
            bounded.domainEventRegisterAny(None, event, self._device, name)

    def _network_metadata(
        self, _connection: object, network: Any, _type: int, uri: Optional[str], _opaque: object
    ) -> None:
        if uri is not None:
            self._on_network_metadata(network.name(), uri)

    def _lifecycle(self, _connection: object, domain: Any, event: int, detail: int, _opaque: object) -> None:
        name = _EVENTS.get(event)
        if name is not None:
            detail_name = _DETAILS.get((event, detail), str(detail))
            self._on_event(LifecycleEvent(domain.UUIDString(), domain.name(), name, detail_name))

    def _device(self, _connection: object, domain: Any, alias: str, name: str) -> None:
        if alias.startswith(_HOSTDEV_ALIASES):
            self._on_event(LifecycleEvent(domain.UUIDString(), domain.name(), name, alias))

    def _connected(self) -> Any:
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

    def running(self) -> dict[str, Optional[str]]:
        """The XML of every running domain, by UUID; None for one about which libvirt does not answer.

        That is one for which libvirt is just waiting for something, such as a hook or QEMU. It runs all the same.
        """
        domains: dict[str, Optional[str]] = {}
        with deadline.within(_SURVEY_SECONDS), libvirt_call("list of running domains"):
            for domain in self._connected().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                try:
                    with libvirt_call("XML of a domain"):
                        domains[domain.UUIDString()] = domain.XMLDesc(0)
                except VfmigrateError as error:
                    if not (isinstance(error, LibvirtError) and error.code == libvirt.VIR_ERR_NO_DOMAIN):
                        domains[domain.UUIDString()] = None  # else it has ended meanwhile
        return domains

    def xml(self, uuid: str) -> Optional[str]:
        """The XML of a domain as it runs; None when it does not."""
        try:
            with libvirt_call("lookup of a domain"):
                domain = self._connected().lookupByUUIDString(uuid)
        except LibvirtError as error:
            if error.code == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        with libvirt_call("XML of a domain"):
            return str(domain.XMLDesc(0)) if domain.isActive() else None

    def executing(self) -> frozenset[str]:
        """UUIDs of the domains whose CPUs run; those of an arriving guest do not, until its state is here."""
        with libvirt_call("list of executing domains"):
            found = self._connected().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING)
            return frozenset(domain.UUIDString() for domain in found)

    def migrating(self, uuid: str) -> bool:
        """Whether libvirt runs a job such as a migration on a domain."""
        with libvirt_call("job of a domain"):
            job = self._connected().lookupByUUIDString(uuid).jobInfo()
            return bool(job[0] != libvirt.VIR_DOMAIN_JOB_NONE)

    def stamp(self, uuid: str, marks: tuple[metadata.Mark, ...]) -> None:
        """Write our metadata of a running domain, or remove it; the definition does not change."""
        with libvirt_call("metadata"):
            domain = self._connected().lookupByUUIDString(uuid)
            domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                metadata.write(marks) if marks else None,
                metadata.PREFIX,
                metadata.URI,
                libvirt.VIR_DOMAIN_AFFECT_LIVE,
            )

    def persistent_xml(self, uuid: str) -> Optional[str]:
        """The definition with which a domain will next boot, secrets included; None for a transient domain."""
        with libvirt_call("persistent definition"):
            domain = self._connected().lookupByUUIDString(uuid)
            if not domain.isPersistent():
                return None
            return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))

    def define(self, xml: str) -> None:
        """Replace a persistent definition."""
        with libvirt_call("definition"):
            self._connected().defineXML(xml)

    def plug_again(self, uuid: str, mac: str, spare: Callable[[str], str]) -> None:
        """Unplug the VF of a failover pair from a running domain, as far as libvirt has it, and plug it in again.

        This is for a guest whose QEMU could not plug in a VF that libvirt has in the domain. It waits for a limited
        time for the guest to release the VF. `spare` returns the XML of a VF that an earlier attempt unplugged and
        could not plug in, from the XML of the domain. Raises HostError when the domain is gone or busy, or does not
        release its VF.
        """

        def detach(device: str) -> None:
            with libvirt_call("unplugging a VF"):
                domain.detachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)

        with libvirt_call("plugging a VF in again"):
            domain = self._connected().lookupByUUIDString(uuid)
            vf = _transient_device(domain, mac)
            if vf is None:
                domain.attachDeviceFlags(spare(domain.XMLDesc(0)), libvirt.VIR_DOMAIN_AFFECT_LIVE)
                return
            if not unplug(
                lambda: _transient_device(domain, mac), detach, _UNPLUG_SECONDS, pause=self._stop.wait
            ):
                raise HostError(f"guest '{domain.name()}' does not release its VF with MAC {mac}")
            domain.attachDeviceFlags(vf, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def has_vf(self, uuid: str, mac: str) -> bool:
        """Whether a running domain has a VF with this MAC. Raises HostError when the domain is gone."""
        with libvirt_call("XML of a domain"):
            xml = str(self._connected().lookupByUUIDString(uuid).XMLDesc(0))
        return any(interface.wanted_mac == mac for interface in read(xml).interfaces)

    def marks(self, uuid: str) -> tuple[metadata.Mark, ...]:
        """The marks in a running domain's metadata. Raises HostError when the domain is gone."""
        with libvirt_call("XML of a domain"):
            xml = str(self._connected().lookupByUUIDString(uuid).XMLDesc(0))
        return read(xml, lenient=True).marks

    def plug(self, uuid: str, xml: str) -> None:
        """Plug a device into a running domain; not into its definition. Raises HostError."""
        with libvirt_call("plugging a VF in"):
            domain = self._connected().lookupByUUIDString(uuid)
            domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    # -- storage

    def storage(self) -> KnownStorage:
        """What domains and running storage pools of this host name, as far as libvirt says so in a few seconds."""
        disks: list[str] = []
        pools: list[str] = []
        with deadline.within(_STORAGE_SECONDS), libvirt_call("list of domains"):
            for domain in self._connected().listAllDomains():
                with failure_ignored():  # it has ended meanwhile
                    disks += storage_xml.disks(str(domain.XMLDesc(0)))
        with deadline.within(_STORAGE_SECONDS), failure_ignored():  # a libvirt without its storage driver
            for pool in self._connected().listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
                with failure_ignored():
                    target = storage_xml.pool_target(str(pool.XMLDesc(0)))
                    pools += [target] if target is not None else []
        return KnownStorage(tuple(disks), tuple(pools))

    # -- networks

    def network(self, name: str) -> NetworkState:
        """A network's definitions; all None when there is no network of this name."""
        try:
            with self._network_call(f"network {name}"):
                found = self._connected().networkLookupByName(name)
        except LibvirtError as error:
            if error.code == libvirt.VIR_ERR_NO_NETWORK:
                return NetworkState(None, None, autostart=False)
            raise
        with self._network_call(f"network {name}"):
            inactive = libvirt.VIR_NETWORK_XML_INACTIVE
            return NetworkState(
                persistent=str(found.XMLDesc(inactive)) if found.isPersistent() else None,
                live=str(found.XMLDesc(0)) if found.isActive() else None,
                autostart=bool(found.autostart()) if found.isPersistent() else False,
            )

    def define_network(self, xml: str) -> None:
        """Define a network, or replace its definition; a running network does not change."""
        with self._network_call("definition of a network"):
            self._connected().networkDefineXML(xml)

    def start_network(self, name: str) -> None:
        """Start a defined network, if it does not run; it can also be started by another program meanwhile."""
        with self._network_call(f"start of network {name}"):
            found = self._connected().networkLookupByName(name)
        try:
            with self._network_call(f"start of network {name}"):
                found.create()
        except LibvirtError:
            if not self._is_active(found):
                raise

    def stop_network(self, name: str) -> None:
        """Stop a network, if it runs. Not while a guest has a VF of it: libvirt then forgets which VFs are in use."""
        with self._network_call(f"stop of network {name}"):
            found = self._connected().networkLookupByName(name)
        try:
            with self._network_call(f"stop of network {name}"):
                found.destroy()
        except LibvirtError:
            if self._is_active(found):
                raise

    def _is_active(self, network: Any) -> bool:
        with self._network_call("state of a network"):
            return bool(network.isActive())

    def autostart_network(self, name: str) -> None:
        """Set a network to start with libvirt."""
        with self._network_call(f"autostart of network {name}"):
            self._connected().networkLookupByName(name).setAutostart(1)
