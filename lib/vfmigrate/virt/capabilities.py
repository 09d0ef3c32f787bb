# SPDX-License-Identifier: GPL-2.0-or-later
"""What libvirt knows of a guest's prospects, on the host where it is and on the one where it is to go.

A door that only reads, for the command, with its user's rights. Measuring how fast a guest writes its memory is the
one thing that makes libvirt do something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import libvirt

from vfmigrate.domain.migrating_guest import MigratingGuest, comparable, host_model
from vfmigrate.model.libvirt_facts import UNLIMITED_MIBS, CpuFacts, LibvirtFacts
from vfmigrate.virt.connection import LibvirtConnection
from vfmigrate.virt.errors import LibvirtError, failure_ignored, libvirt_call

_MEASURE_SECONDS = 1
# virDomainDirtyRateStatus (libvirt-domain.h)
_MEASURED = 2


@dataclass(frozen=True)
class GuestState:
    """A guest as libvirt has it."""

    name: str
    uuid: str
    running: bool
    #: its XML with every VF resolved, and as it would travel; no secrets
    live: str
    migratable: str
    #: MiB/s that its migrations may use
    bandwidth_mibs: int


class Capabilities:
    """What one host's libvirt tells."""

    def __init__(self, session: LibvirtConnection) -> None:
        self._connection = session.connection
        self._session = session

    def libvirt(self) -> LibvirtFacts:
        """Its versions, networks and memory."""
        connection = self._connection
        with libvirt_call("versions"):
            networks = {each.name(): bool(each.isActive()) for each in connection.listAllNetworks()}
            return LibvirtFacts(
                hostname=connection.getHostname(),
                libvirt=connection.getLibVersion(),
                qemu=connection.getVersion(),
                networks=networks,
                available_kib=self._available_kib(),
            )

    def _available_kib(self) -> Optional[int]:
        with failure_ignored():
            told = self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            return sum(int(told.get(key, 0)) for key in ("free", "buffers", "cached"))
        return None

    def guest(self, name: str) -> GuestState:
        """A guest by name or UUID. Raises Refused when there is none."""
        domain = self._session.domain(name)
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
            )

    @staticmethod
    def _bandwidth(domain: Any) -> int:
        with failure_ignored():
            return int(domain.migrateGetMaxSpeed())
        return UNLIMITED_MIBS

    def namesake(self, name: str, uuid: str) -> Optional[str]:
        """What stands in the way of a guest of this name and UUID, in words."""
        for look_up, key in (
            (self._connection.lookupByUUIDString, uuid),
            (self._connection.lookupByName, name),
        ):
            try:
                with libvirt_call("list of guests"):
                    found = look_up(key)
                    active, found_uuid, found_name = bool(found.isActive()), found.UUIDString(), found.name()
            except LibvirtError:
                continue
            if found_uuid != uuid:
                return f"another guest named '{name}' (UUID {found_uuid})"
            if found_name != name:
                return f"a guest with the same UUID, '{found_name}'"
            if active:
                return f"guest '{name}' running already"
        return None

    def machine_problem(self, guest: MigratingGuest) -> Optional[str]:
        """Why the guest's machine type cannot be had with its emulator, as libvirt tells it; None when it can."""
        try:
            self._capabilities(guest)
        except LibvirtError as error:
            return error.reason
        return None

    def host_cpu(self, guest: MigratingGuest) -> Optional[str]:
        """The most that a guest like this could have as its CPU here, as a <cpu>."""
        try:
            return host_model(self._capabilities(guest))
        except LibvirtError:
            return None

    def _capabilities(self, guest: MigratingGuest) -> str:
        with libvirt_call("domain capabilities"):
            return str(
                self._connection.getDomainCapabilities(
                    guest.emulator, guest.arch, guest.machine, guest.virt, 0
                )
            )

    def compare_cpu(self, guest: MigratingGuest, cpu: str) -> CpuFacts:
        """Compare a guest's CPU, as libvirt itself does, with what this host can give."""
        try:
            with libvirt_call("comparison of CPUs"):
                result = self._connection.compareHypervisorCPU(
                    guest.emulator, guest.arch, guest.machine, guest.virt, comparable(cpu), 0
                )
        except LibvirtError as error:
            return CpuFacts(None, error.reason)
        return CpuFacts(result in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET))

    def baseline(self, guest: MigratingGuest, cpus: list[str]) -> Optional[str]:
        """The CPU that all of these can give, as libvirt computes it; None when there is none."""
        with failure_ignored():
            return str(
                self._connection.baselineHypervisorCPU(
                    guest.emulator, guest.arch, guest.machine, guest.virt, cpus, 0
                )
            )
        return None

    def measure(self, name: str) -> bool:
        """Begin to measure how fast a running guest writes its memory anew; False where that cannot be done."""
        with failure_ignored():
            self._session.domain(name).startDirtyRateCalc(_MEASURE_SECONDS, 0)
            return True
        return False

    def measured(self, name: str) -> Optional[float]:
        """What was measured, in MiB/s; None when it is not done."""
        with failure_ignored():
            domain = self._session.domain(name)
            ((_, told),) = self._connection.domainListGetStats([domain], libvirt.VIR_DOMAIN_STATS_DIRTYRATE)
            if told.get("dirtyrate.calc_status") == _MEASURED:
                return float(told.get("dirtyrate.megabytes_per_second", 0))
        return None
