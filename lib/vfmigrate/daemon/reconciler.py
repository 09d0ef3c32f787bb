# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare claims, guests, VFs, ports and libvirt's networks with what they should be, and correct them.

A reconcile does everything that an event of libvirt leads to, so a lost event costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Optional

from vfmigrate import deadline, journal
from vfmigrate.announce.announcer import Announcer
from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.converge.observe import Surroundings
from vfmigrate.converge.services import HostServices
from vfmigrate.daemon.domain_sync import DomainSync
from vfmigrate.domain import domain_xml
from vfmigrate.errors import HostError, Unreachable, VfmigrateError
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import SwitchPort
from vfmigrate.provision.networks import Networks
from vfmigrate.reservations.cleanup import Cleanup
from vfmigrate.text import command

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor  # imports libvirt-python, which pure tests do without

# A domain may be missing from libvirt's list for a moment around its hooks; a claim younger than this stays.
_GRACE_SECONDS = 15.0
# For looking at one PF: one that hangs must leave time for the others.
_PF_SECONDS = 60.0


@dataclass(frozen=True)
class Listeners:
    """Called by a reconcile with what it finds; nobody has to listen."""

    #: called with the UUID of a guest that has arrived, which nobody noticed
    arrived: Callable[[str], None] = lambda _uuid: None
    #: called with the UUIDs of the guests that run here, at every reconcile in which libvirt answered
    running: Callable[[Container[str]], None] = lambda _uuids: None
    #: called with each PF of a pool after the VFs of all pools were converged
    converged: Callable[[PciAddress], object] = lambda _pf: None


class Reconciler:
    """Reconciles, in the event loop's thread or in that of a request."""

    def __init__(
        self,
        services: HostServices,
        domain_sync: DomainSync,
        announcer: Announcer,
        hypervisor: Hypervisor,
        listeners: Optional[Listeners] = None,
    ) -> None:
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._converger = services.converger
        self._cleanup = Cleanup(services.store, services.converger, services.log)
        self._domain_sync = domain_sync
        self._announcer = announcer
        self._hypervisor = hypervisor
        self._log = services.log
        self.networks = Networks(services.config, services.host, services.store, hypervisor)
        self._listeners = listeners if listeners is not None else Listeners()

    def finish_releases(self) -> None:
        """Finish what an earlier daemon began to release; what fails is logged and left for a reconcile."""
        for change in self._release(self._store.clock(), None):
            self._log.event("reconcile", change)

    def reconcile(self) -> list[str]:
        """Drop claims without a guest, adopt what running domains hold, converge every VF of every pool.

        Returns the changes made, in words. What fails or cannot be looked at is logged, so that whoever asked can
        collect it (journal.failures), and left for the next time.
        """
        changes: list[str] = []
        before = self._store.clock()
        running: Optional[dict[str, Optional[str]]] = None
        try:
            running = self._hypervisor.running()
        except VfmigrateError as error:
            # at DEBUG, because the connection logs it when it changes
            self._log.failed(
                "reconcile", error, about="guests and networks were not looked at", level=journal.DEBUG
            )
        domains = {uuid: self._read(uuid, xml) for uuid, xml in (running or {}).items()}
        self._store.rewrite()
        for problem in self._store.problems():
            self._log.failed("reconcile-failed", problem)
        changes += self._release(before, running)
        for each in domains.values():
            if each is not None:
                changes += self._domain_sync.catch_up(each, before, _GRACE_SECONDS)
        pfs = [pf for pool in self._config.pools.values() for pf in pool.pfs]
        around = self._host.surroundings(pfs)
        if self._converge_pfs(pfs, around, changes):
            changes += self._remove_orphaned_ports(around)
        if running is not None:
            changes += self._catch_up()
            changes += self._keep_networks()
            self._listeners.running(running)
        for change in changes:
            self._log.event("reconcile", change)
        return changes

    def _release(self, now: float, running: Optional[Container[str]]) -> list[str]:
        """Release the claims that have no guest, and those whose release was interrupted."""
        reasons = {}
        with self._store.lock:  # a guest that is late, and starts now, renews its claim before or after this
            for claim in self._store.all():
                reason = self._reason_to_drop(claim, now, running)
                if reason and self._store.release(claim, gone=True) is not None:
                    reasons[claim.id] = reason
        changes = []
        for claim, done in self._cleanup.finish():
            reason = reasons.get(claim.id, "its release was not finished")
            changes.append(f"dropped the claim of guest '{claim.domain_name}' on {claim.vf}: {reason}")
            changes += done
        return changes

    @staticmethod
    def _reason_to_drop(claim: Claim, now: float, running: Optional[Container[str]]) -> str:
        if claim.has_expired(now):
            return "it expired before the guest started"
        if running is None or claim.expires is not None or claim.since > now - _GRACE_SECONDS:
            return ""
        return "" if claim.domain in running else "the guest does not run here"

    def _read(self, uuid: str, xml: Optional[str]) -> Optional[domain_xml.Domain]:
        """A running domain; None where it cannot be looked at."""
        try:
            if xml is not None:
                return domain_xml.read(xml, lenient=True)
            raise Unreachable(
                f"libvirt does not answer about the running guest {uuid}, so it was not looked at",
                f"see {command('virsh', 'domcontrol', uuid)}",
            )
        except VfmigrateError as error:
            self._log.failed("adopt-failed", error)
            return None

    def _catch_up(self) -> list[str]:
        """Do what a missed event of libvirt would have led to, as after an upgrade of the daemon."""
        arrived = {
            claim.domain: claim.domain_name
            for claim in self._store.all()
            if claim.incoming and claim.state == PLUGGED
        }
        if not arrived:
            return []
        try:
            executing = self._hypervisor.executing()
        except VfmigrateError as error:
            self._log.failed("reconcile-failed", error)
            return []
        here = {uuid: name for uuid, name in arrived.items() if uuid in executing}
        for uuid in here:
            self._announcer.announce(uuid)
            self._listeners.arrived(uuid)
            self._domain_sync.settle_soon(uuid)
        return [f"guest '{name}' resumed here without an event" for name in here.values()]

    def _converge_pfs(self, pfs: Sequence[PciAddress], around: Surroundings, changes: list[str]) -> bool:
        """Converge the VFs of every pool; whether Open vSwitch answers: where it does not, it is not asked again."""
        different: list[PciAddress] = []
        for pf in pfs:
            try:
                with deadline.within(_PF_SECONDS):
                    if self._host.sysfs.exists(pf):
                        different += self._converger.survey(pf, around)
            except VfmigrateError as error:
                self._log.failed("reconcile-failed", error, about=f"PF {pf}")
                if isinstance(error, Unreachable):
                    return False
        changes += self._cleanup.converge_vfs(different)
        for pf in pfs:
            if self._host.sysfs.exists(pf):
                self._listeners.converged(pf)
        return True

    def _keep_networks(self) -> list[str]:
        """Do what provisioning could not do while libvirt was not running, as at boot."""
        done: list[str] = []
        for pool in self._config.pools.values():
            try:
                done += self.networks.keep(pool)
            except VfmigrateError as error:
                self._log.failed("reconcile-failed", error)
                if isinstance(error, Unreachable):
                    break  # each further question would wait as long
        return done

    def _remove_orphaned_ports(self, around: Surroundings) -> list[str]:
        """Remove ports whose claim or representor no longer exists.

        A representor may have been renamed; the claim then has another port with the new name.
        """
        removed: list[str] = []
        try:
            ports = around.ports()
            owners = {claim.id for claim in self._store.all()}  # looked at last: a port follows its claim
            for port in ports:
                self._remove_orphaned(port, around, owners, removed)
        except VfmigrateError as error:
            self._log.failed("reconcile-failed", error)
        return removed

    def _remove_orphaned(
        self, port: SwitchPort, around: Surroundings, owners: Container[str], removed: list[str]
    ) -> None:
        reason = ""
        if port.owner not in owners:
            reason = "its guest is gone"
        elif not around.has_link(port.name):
            reason = f"network device {port.name} does not exist"
        try:
            if reason and port.owner is not None and self._host.ovs.unplug(port.name, port.owner):
                removed.append(f"unplugged {port.name} from {port.bridge}: {reason}")
        except HostError as error:
            self._log.failed("reconcile-failed", error)
