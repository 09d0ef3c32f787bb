# SPDX-License-Identifier: GPL-2.0-or-later
"""A user's own connection to libvirt, with the user's rights, as virsh makes it.

For the command, which changes definitions for an administrator; the daemon has its own connection (hypervisor).
"""

from __future__ import annotations

import functools
import os
import re
import threading
from collections.abc import Container
from typing import Any, Optional
from urllib.parse import urlsplit

import libvirt

from vfmigrate import deadline
from vfmigrate.config import configuration
from vfmigrate.config.libvirt_access import LibvirtAccess
from vfmigrate.deadline import Door
from vfmigrate.domain import domain_xml, metadata, network_xml, xml_parser
from vfmigrate.errors import HostError, Refused, Unreachable, VfmigrateError
from vfmigrate.model.libvirt_facts import DefinedGuest
from vfmigrate.text import command
from vfmigrate.virt.bounded import Bounded, Limits
from vfmigrate.virt.errors import absence_ignored, failure_ignored, libvirt_call, loss_named
from vfmigrate.virt.login import OPEN_SECONDS, open_connection
from vfmigrate.virt.network_metadata import NetworkMetadata

# How long a call may take: generous, as libvirt may start a QEMU to see what it can do.
_CALL_SECONDS = 60.0
# ssh asks the user for what it needs; libvirt itself answers at once.
_OPEN_SECONDS_SSH = 120.0
_CLOSE_SECONDS = 1.0
# virUUIDParse() of libvirt: with or without hyphens
_UUID = re.compile(r"(?:-?[0-9a-fA-F]){32}")
# in virsh's words
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}


@functools.cache
def _run_events() -> None:
    """Start the thread for libvirt's events and keep-alive; before the first connection."""
    libvirt.virEventRegisterDefaultImpl()

    def serve() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=serve, name="libvirt-events", daemon=True).start()


def _login_for(uri: Optional[str]) -> LibvirtAccess:
    """The login for a URI: of this host the configured one, of others none, which libvirt's auth.conf can have."""
    remote = uri is not None and urlsplit(uri).hostname is not None
    return LibvirtAccess() if remote else configuration.load().libvirt


def _open_seconds(uri: Optional[str]) -> float:
    scheme = urlsplit(uri or os.environ.get("LIBVIRT_DEFAULT_URI", "")).scheme
    return _OPEN_SECONDS_SSH if "ssh" in scheme else OPEN_SECONDS


class LibvirtConnection:
    """A connection to libvirt; a context, closed when it is left.

    No call of it waits without limit, and Ctrl-C ends each: a libvirt that does not answer at all is noticed by
    keep-alive, and a call that it does not return from is given up.
    """

    def __init__(self, uri: Optional[str] = None) -> None:
        """Connect to `uri`, or where virsh would (LIBVIRT_DEFAULT_URI).

        The libvirt of this host may ask for a login; it is that of the daemon, for users who can read it. Raises
        Unreachable, HostError or ConfigError.
        """
        # libvirt would print every error, besides raising it
        libvirt.registerErrorHandler(lambda *_: None, None)
        _run_events()
        name = f"libvirt at {uri}" if uri else "libvirt"
        remedy = "check the option -c; see systemctl status libvirtd virtqemud"
        opening = Door(name, remedy if uri is None else f"{remedy} on that host", Unreachable)
        door = Door(name, "see systemctl status libvirtd virtqemud on its host", Unreachable)
        limits = Limits(door, door, _CALL_SECONDS, _CALL_SECONDS, around=lambda: loss_named(door))
        opened = open_connection(uri, lambda: _login_for(uri), opening, _open_seconds(uri))
        self._connection = Bounded(opened, limits)
        with failure_ignored():  # drivers inside this process have none
            self._connection.setKeepAlive(5, 6)

    def __enter__(self) -> LibvirtConnection:
        return self

    def __exit__(self, *_: object) -> None:
        with deadline.within(_CLOSE_SECONDS), failure_ignored():
            self._connection.close()

    def network_metadata(self) -> NetworkMetadata:
        """The metadata through which the vfmigrated of that host is asked; usable while this is connected."""
        return NetworkMetadata(lambda: self._connection)

    def hostname(self) -> str:
        """The name of the host, as libvirt there reports it."""
        with libvirt_call("host name"):
            return str(self._connection.getHostname())

    def host_uuid(self) -> str:
        """The UUID of the host; libvirt refuses a migration between hosts whose UUIDs are equal."""
        with libvirt_call("capabilities of the host"):
            found = xml_parser.parse(self._connection.getCapabilities(), "the capabilities").findtext(
                "host/uuid"
            )
            return str(found)

    @property
    def handle(self) -> Any:
        """The object of libvirt-python, its calls bounded, for the other modules of this package."""
        return self._connection

    def domain(self, name: str) -> Any:
        """A domain by name or UUID, as libvirt-python has it, bounded. Raises Refused when there is none."""
        look_ups = [self._connection.lookupByName]
        if _UUID.fullmatch(name):  # libvirt calls any other text an invalid argument
            look_ups.append(self._connection.lookupByUUIDString)
        for look_up in look_ups:
            with absence_ignored(f"lookup of guest '{name}'"):
                return look_up(name)
        raise Refused(f"libvirt at {self._connection.getURI()} has no guest '{name}'", "see virsh list --all")

    def running_domain(self, name: str) -> Any:
        """Libvirt's object of a domain that runs. Raises Refused when it does not."""
        if not self.is_running(name):
            raise Refused(f"guest '{name}' does not run", "omit --live")
        return self.domain(name)

    def is_running(self, name: str) -> bool:
        """Whether a domain, given by name or UUID, runs."""
        domain = self.domain(name)
        with libvirt_call(f"state of guest '{name}'"):
            return bool(domain.isActive())

    def definition(self, name: str) -> str:
        """The persistent definition of a domain, secrets included. Raises Refused when it has none."""
        domain = self.domain(name)
        with libvirt_call(f"definition of guest '{name}'"):
            if not domain.isPersistent():
                raise Refused(
                    f"guest '{name}' is transient: it has no definition to change",
                    "define it first: virsh define",
                )
            return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))

    def define(self, xml: str) -> None:
        """Replace a persistent definition; libvirt validates it against its schema first."""
        with libvirt_call("definition"):
            self._connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

    def is_local(self) -> bool:
        """Whether this is the libvirt of this host, where the daemon's socket is."""
        with libvirt_call("URI"):
            return urlsplit(str(self._connection.getURI())).hostname is None

    def uuid(self, name: str) -> str:
        """The UUID of a domain."""
        return str(self.domain(name).UUIDString())

    def is_persistent(self, name: str) -> bool:
        """Whether a domain has a definition."""
        domain = self.domain(name)
        with libvirt_call(f"definition of guest '{name}'"):
            return bool(domain.isPersistent())

    def live(self, name: str, *, resolved: bool = True) -> str:
        """The XML of a running domain; unless `resolved`, interfaces of networks name no VF."""
        domain = self.domain(name)
        with libvirt_call(f"XML of guest '{name}'"):
            return str(domain.XMLDesc(0 if resolved else libvirt.VIR_DOMAIN_XML_MIGRATABLE))

    def running(self, only: Optional[Container[str]] = None) -> dict[str, str]:
        """The XML of the running domains by name: of those that `only` names, of all without it.

        Raises HostError for a domain about which libvirt does not answer: it runs all the same.
        """
        found = {}
        with libvirt_call("list of running guests"):
            running = self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            names = [str(each.name()) for each in running]
        for name, each in zip(names, running):
            if only is not None and name not in only:
                continue
            try:
                with absence_ignored("XML"):  # it has ended meanwhile
                    found[name] = str(each.XMLDesc(0))
            except VfmigrateError as error:
                raise HostError(
                    f"libvirt does not answer about the running guest '{name}': {error.problem}",
                    f"see {command('virsh', 'domcontrol', name)}; name the other guests with --only",
                ) from None
        return found

    def guests(self, *, inactive: bool) -> list[DefinedGuest]:
        """The running guests by name, and with `inactive` those that do not run; their XML is without secrets."""
        found = {}
        flags = 0 if inactive else libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        with libvirt_call("list of guests"):
            for each in self._connection.listAllDomains(flags):
                with absence_ignored("XML"):  # it has ended meanwhile
                    running = bool(each.isActive())
                    state = _STATES.get(each.state()[0], "running" if running else "shut off")
                    found[str(each.name())] = DefinedGuest(str(each.XMLDesc(0)), state, running)
        return [found[name] for name in sorted(found)]

    def free_memory_mib(self) -> int:
        """The available memory of the host, caches included."""
        with libvirt_call("memory of the host"):
            found = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
        return sum(int(found.get(key, 0)) for key in ("free", "buffers", "cached")) // 1024

    def macs(self) -> dict[str, str]:
        """The names of all domains, running or not, by the MACs of their interfaces."""
        found = {}
        with libvirt_call("list of guests"):
            for each in self._connection.listAllDomains():
                for flags in (0, libvirt.VIR_DOMAIN_XML_INACTIVE):
                    found.update(dict.fromkeys(domain_xml.macs(each.XMLDesc(flags)), each.name()))
        return found

    def stamp(self, name: str, marks: tuple[metadata.Mark, ...]) -> None:
        """Replace our metadata on a running domain; no marks remove it."""
        domain = self.domain(name)
        with libvirt_call(f"metadata of guest '{name}'"):
            domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                metadata.write(marks) if marks else None,
                metadata.PREFIX if marks else None,
                metadata.URI,
                libvirt.VIR_DOMAIN_AFFECT_LIVE,
            )

    def runs_network(self, name: str) -> Optional[bool]:
        """Whether a network runs; None when no network has this name."""
        with libvirt_call("list of networks"):
            for each in self._connection.listAllNetworks():
                if each.name() == name:
                    return bool(each.isActive())
        return None

    def _networks(self) -> dict[str, str]:
        """The XML of all networks by name."""
        with libvirt_call("list of networks"):
            return {str(each.name()): str(each.XMLDesc(0)) for each in self._connection.listAllNetworks()}

    def hostdev_networks(self) -> frozenset[str]:
        """The names of the networks of VFs."""
        return frozenset(name for name, xml in self._networks().items() if network_xml.is_hostdev(xml))

    def is_openvswitch_network(self, name: str) -> bool:
        """Whether a network plugs its guests into Open vSwitch.

        Raises Refused when no network has this name, or when it is a network of VFs.
        """
        xml = self._networks().get(name)
        if xml is None:
            raise Refused(f"libvirt has no network '{name}'", "see virsh net-list --all")
        if network_xml.is_hostdev(xml):
            raise Refused(
                f"the network '{name}' is a network of VFs, and a standby must not be a VF itself",
                "choose a network with a bridge",
            )
        return network_xml.is_openvswitch(xml)


def refuse_same_host(source: LibvirtConnection, destination: LibvirtConnection, name: str) -> None:
    """Raises Refused if a guest would migrate to the host that it is on, whatever the two URIs are."""
    source.domain(name)
    if source.host_uuid() == destination.host_uuid():
        raise Refused(
            f"guest '{name}' is on {destination.hostname()} already",
            "give the libvirt connection of another host as DESTURI",
        )
