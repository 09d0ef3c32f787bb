# SPDX-License-Identifier: GPL-2.0-or-later
"""What libvirt knows of a host and a guest, for the preflight checks on source and destination.

It only reads, with the rights of the user of the command. Only the measurement of the dirty rate makes libvirt do
something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import libvirt

from vfmigrate.domain.migrating_guest import MigratingGuest, comparable, host_model, page_sizes
from vfmigrate.model.libvirt_facts import UNLIMITED_MIBS, CpuFacts, LibvirtFacts, NameConflict
from vfmigrate.virt.connection import LibvirtConnection
from vfmigrate.virt.errors import LibvirtError, absence_ignored, failure_ignored, libvirt_call

_MEASURE_SECONDS = 1
# virDomainDirtyRateStatus (libvirt-domain.h)
_MEASURED = 2
# More NUMA nodes than a host has; libvirt reports those that there are.
_ALL_CELLS = 128


@dataclass(frozen=True)
class GuestState:
    """A guest in libvirt."""

    name: str
    uuid: str
    running: bool
    #: its XML with every VF resolved, and as libvirt would migrate it; without secrets
    live: str
    migratable: str
    #: the bandwidth limit of its migrations in MiB/s
    bandwidth_mibs: int
    #: the longest downtime that its migration may have, in ms; None where libvirt does not report it
    downtime_ms: Optional[int] = None


class Capabilities:
    """The libvirt of one host."""

    def __init__(self, connection: LibvirtConnection) -> None:
        self._handle = connection.handle
        self._connection = connection

    def libvirt(self) -> LibvirtFacts:
        """Its versions, networks and memory."""
        handle = self._handle
        with libvirt_call("versions"):
            networks = {each.name(): bool(each.isActive()) for each in handle.listAllNetworks()}
            return LibvirtFacts(
                hostname=handle.getHostname(),
                libvirt=handle.getLibVersion(),
                qemu=handle.getVersion(),
                networks=networks,
                available_kib=self._available_kib(),
                free_pages=self._free_pages(),
            )

    def _available_kib(self) -> Optional[int]:
        with failure_ignored():
            stats = self._handle.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            return sum(int(stats.get(key, 0)) for key in ("free", "buffers", "cached"))
        return None

    def _free_pages(self) -> Optional[dict[int, int]]:
        with failure_ignored():
            sizes = page_sizes(str(self._handle.getCapabilities()))
            cells = self._handle.getFreePages(sizes, 0, _ALL_CELLS, 0) if sizes else {}
            return {size: sum(int(free.get(size, 0)) for free in cells.values()) for size in sizes}
        return None

    def guest(self, name: str) -> GuestState:
        """A guest by name or UUID. Raises Refused when there is none."""
        domain = self._connection.domain(name)
        with libvirt_call(f"XML of guest '{name}'"):
            running = bool(domain.isActive())
            return GuestState(
                name=domain.name(),
                uuid=domain.UUIDString(),
                running=running,
                live=str(domain.XMLDesc(0)),
                migratable=str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
                if running
                else str(domain.XMLDesc(0)),
                bandwidth_mibs=self._bandwidth(domain),
                downtime_ms=self._downtime(domain),
            )

    @staticmethod
    def _bandwidth(domain: Any) -> int:
        with failure_ignored():
            return int(domain.migrateGetMaxSpeed())
        return UNLIMITED_MIBS

    @staticmethod
    def _downtime(domain: Any) -> Optional[int]:
        with failure_ignored():
            # libvirt-python returns None, and raises nothing, for a guest that does not run
            downtime = domain.migrateGetMaxDowntime(0)
            return int(downtime) if downtime is not None else None
        return None

    def namesake(self, name: str, uuid: str) -> Optional[NameConflict]:
        """What blocks a guest of this name and UUID on this host; None when nothing does."""
        for look_up, key in (
            (self._handle.lookupByUUIDString, uuid),
            (self._handle.lookupByName, name),
        ):
            found = None
            with absence_ignored("list of guests"):
                found = look_up(key)
                active, found_uuid, found_name = bool(found.isActive()), found.UUIDString(), found.name()
            if found is None:
                continue
            if found_uuid != uuid:
                return NameConflict(f"another guest named '{name}' (UUID {found_uuid})")
            if found_name != name:
                return NameConflict(f"a guest with the same UUID, '{found_name}'")
            if active:
                return NameConflict(f"guest '{name}'", same=True)
        return None

    def machine_problem(self, guest: MigratingGuest) -> Optional[str]:
        """Why this host does not support the guest's machine type, in libvirt's words; None when it does."""
        try:
            self._capabilities(guest)
        except LibvirtError as error:
            return error.reason
        return None

    def host_cpu(self, guest: MigratingGuest) -> Optional[str]:
        """The CPU of mode host-model for this guest on this host, as a <cpu>."""
        try:
            return host_model(self._capabilities(guest))
        except LibvirtError:
            return None

    def _capabilities(self, guest: MigratingGuest) -> str:
        with libvirt_call("domain capabilities"):
            return str(
                self._handle.getDomainCapabilities(guest.emulator, guest.arch, guest.machine, guest.virt, 0)
            )

    def compare_cpu(self, guest: MigratingGuest, cpu: str) -> CpuFacts:
        """Have libvirt compare a guest's CPU with that of this host."""
        try:
            with libvirt_call("comparison of CPUs"):
                result = self._handle.compareHypervisorCPU(
                    guest.emulator, guest.arch, guest.machine, guest.virt, comparable(cpu), 0
                )
        except LibvirtError as error:
            return CpuFacts(None, error.reason)
        return CpuFacts(result in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET))

    def baseline(self, guest: MigratingGuest, cpus: list[str]) -> Optional[str]:
        """The CPU that all of these support, as libvirt computes it; None when there is none."""
        with failure_ignored():
            return str(
                self._handle.baselineHypervisorCPU(
                    guest.emulator, guest.arch, guest.machine, guest.virt, cpus, 0
                )
            )
        return None

    def measure(self, name: str) -> bool:
        """Begin to measure the dirty rate of a running guest; False where that is not supported."""
        with failure_ignored():
            self._connection.domain(name).startDirtyRateCalc(_MEASURE_SECONDS, 0)
            return True
        return False

    def measured(self, name: str) -> Optional[float]:
        """The measured dirty rate in MiB/s; None while it is not known."""
        with failure_ignored():
            domain = self._connection.domain(name)
            ((_, stats),) = self._handle.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE)
            if stats.get("dirtyrate.calc_status") == _MEASURED:
                return float(stats.get("dirtyrate.megabytes_per_second", 0))
        return None
