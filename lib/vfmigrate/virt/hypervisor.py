# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon asks of libvirt: running domains and networks.

The connection is never used while a hook waits for an answer, nor with a lock held: libvirt holds the lock of a domain
while it runs the hook.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, Optional

import libvirt

from vfmigrate import deadline
from vfmigrate.domain import metadata, storage_xml, trace_mark
from vfmigrate.domain.domain_xml import device, read
from vfmigrate.domain.network_xml import NetworkState
from vfmigrate.domain.storage_xml import KnownStorage
from vfmigrate.domain.trace_mark import TraceMark
from vfmigrate.errors import HostError, VfmigrateError
from vfmigrate.model.pci import PciAddress
from vfmigrate.virt.daemon_connection import DaemonConnection
from vfmigrate.virt.errors import LibvirtError, failure_ignored, libvirt_call
from vfmigrate.virt.unplug import unplug

# For looking at all domains of the host, of which some may not be answered about.
_SURVEY_SECONDS = 30.0
# For what a client that asks for the facts of this host waits for.
_STORAGE_SECONDS = 4.0
# How long a guest can take to release a device.
_UNPLUG_SECONDS = 45.0


def _transient_device(domain: Any, mac: str) -> Optional[str]:
    """The XML of the VF with this MAC in a domain's failover pair, a network not resolved."""
    xml = str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
    for interface in read(xml).interfaces:
        if interface.teaming == "transient" and interface.wanted_mac == mac:
            return device(xml, interface.position)
    return None


class Hypervisor(DaemonConnection):
    """The domains and networks of this host's libvirt; thread-safe."""

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
        self._set_metadata(uuid, metadata.write(marks) if marks else None, metadata.PREFIX, metadata.URI)

    def stamp_trace(self, uuid: str, mark: Optional[TraceMark]) -> None:
        """Write what names the next migration of a running domain, or remove it; the definition does not change."""
        text = mark.write() if mark is not None else None
        self._set_metadata(uuid, text, trace_mark.PREFIX, trace_mark.URI)

    def _set_metadata(self, uuid: str, text: Optional[str], prefix: str, uri: str) -> None:
        with libvirt_call("metadata"):
            domain = self._connected().lookupByUUIDString(uuid)
            domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, prefix, uri, libvirt.VIR_DOMAIN_AFFECT_LIVE
            )

    def arrival(self, uuid: str) -> Mapping[str, int]:
        """Libvirt's statistics of the migration by which a running domain arrived; empty where there are none."""
        flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
        with failure_ignored():
            stats: Mapping[str, int] = self._connected().lookupByUUIDString(uuid).jobStats(flags)
            return stats
        return {}

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

    def has_vf(self, uuid: str, mac: str, vf: PciAddress) -> bool:
        """Whether a running domain has a VF with this MAC, or this VF. Raises HostError when the domain is gone."""
        with libvirt_call("XML of a domain"):
            xml = str(self._connected().lookupByUUIDString(uuid).XMLDesc(0))
        return any(each.wanted_mac == mac or each.address == vf for each in read(xml).interfaces)

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
