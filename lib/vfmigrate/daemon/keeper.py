# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon does of its own accord: follow libvirt's events, and reconcile.

Everything here may call libvirt, and so runs in one thread of its own that answers no hook and holds no lock while
it waits. Events are cheap to lose: whatever one of them would have led to, `reconcile` does as well.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Container
from typing import TYPE_CHECKING, Callable, Optional

from vfmigrate import journal
from vfmigrate.announce.announcer import Announcer
from vfmigrate.claims.claim_store import PLUGGED, Claim, ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.converge.converger import Converger
from vfmigrate.converge.observe import Host
from vfmigrate.daemon.hook_handler import HookOperations
from vfmigrate.domain import domain_xml, metadata
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress
from vfmigrate.provision.networks import Networks
from vfmigrate.reservations.cleanup import Cleanup
from vfmigrate.rules import failover_pair
from vfmigrate.virt.lifecycle import PLUGGED_IN, UNPLUGGED, LifecycleEvent

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor  # imports libvirt-python, which pure tests do without

# A domain may be missing from libvirt's list for a moment around its hooks; a claim younger than this stays.
_GRACE_SECONDS = 15.0
# A domain that has just resumed is often still locked by the end of its migration.
_ATTEMPTS = 6
_ATTEMPT_SECONDS = 1.0


def _is_unplugged(claim: Claim, running: domain_xml.Domain) -> bool:
    """Whether a domain runs without a VF that it had, and that nobody means to plug in again (arrivals).

    The VF of a failover pair is meant to come back, to where its standby waits, unless another one has.
    """
    had = claim.state == PLUGGED and claim.expires is None and claim.slot is None
    if not had or claim.vf in {interface.address for interface in running.interfaces}:
        return False
    waits = claim.strategy == "failover" and failover_pair.has_standby(running, claim.mac)
    return not waits or any(interface.wanted_mac == claim.mac for interface in running.interfaces)


def _is_named(interface: domain_xml.VfInterface, claim: Claim) -> bool:
    """Whether an interface of a definition that came along with a guest is the one that has this claim."""
    if interface.address is None:
        return False
    if interface.wanted_mac is not None and claim.mac is not None:
        return interface.wanted_mac == claim.mac
    return interface.address == claim.origin


class Keeper:
    """Keeps claims, host and libvirt's metadata in step."""

    def __init__(
        self,
        config: Config,
        host: Host,
        store: ClaimStore,
        converger: Converger,
        operations: HookOperations,
        announcer: Announcer,
        hypervisor: Hypervisor,
        log: Journal,
    ) -> None:
        self._config = config
        self._host = host
        self._store = store
        self._converger = converger
        self._cleanup = Cleanup(store, converger, log)
        self._operations = operations
        self._announcer = announcer
        self._log = log
        self._work: queue.Queue[Optional[Callable[[], object]]] = queue.Queue()
        self._hypervisor = hypervisor
        #: told of a guest that runs on after a migration, to here or not from here
        self.on_resumed: Callable[[str], None] = lambda _uuid: None
        #: told of the guests that run here, at every reconcile that libvirt had a word in
        self.on_running: Callable[[Container[str]], None] = lambda _uuids: None
        #: told of a VF that was unplugged from its running guest
        self.on_unplugged: Callable[[Claim], None] = lambda _claim: None
        self.networks = Networks(config, host.sysfs, store, hypervisor)

    def start(self) -> None:
        """Start listening and working."""
        threading.Thread(target=self._run, name="keeper", daemon=True).start()
        self._hypervisor.start(self._on_event, lambda: self._work.put(self.reconcile))

    def stop(self) -> None:
        """Finish the work at hand and no more."""
        self._hypervisor.stop()
        self._work.put(None)

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=self._config.reconcile_interval)
            except queue.Empty:
                work = self.reconcile
            if work is None:
                return
            self._do(work)

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except VfmigrateError as error:
            self._log.event("keeper-failed", str(error), level=journal.WARNING)
        except Exception as error:  # noqa: BLE001 - told; the next work must still be done
            self._log.bug(error)

    # -- libvirt's events; called in the event thread, must not wait

    def _on_event(self, event: LifecycleEvent) -> None:
        if event.event in (PLUGGED_IN, UNPLUGGED):
            self._work.put(lambda: self.follow(event.uuid))
            return
        if not self._store.of_domain(event.uuid):
            return
        self._log.event(
            f"{event.event}-{event.detail}",
            f"guest '{event.name}' {event.event} ({event.detail})",
            domain=event.name,
            uuid=event.uuid,
        )
        if (event.event, event.detail) == ("resumed", "migrated"):
            # The same event tells that a migration away from here was rolled back. Announcing is right either way:
            # the guest runs here.
            self._announcer.announce(event.uuid)
            self._operations.moves.arrived(event.uuid)
            self.on_resumed(event.uuid)
            self._work.put(lambda: self.settle(event.uuid))
        elif event.event == "started" and event.detail != "migrated":
            if event.detail == "restored":  # with another VF perhaps, or from another host
                self._announcer.announce(event.uuid)
            self._operations.moves.arrived(event.uuid)
            self._work.put(lambda: self.settle(event.uuid))

    # -- a domain runs here

    def settle_soon(self, uuid: str) -> None:
        """Have a domain settled by the keeper's own thread."""
        self._work.put(lambda: self.settle(uuid))

    def plug_again(self, claim: Claim) -> None:
        """Plug the VF of a failover pair into its guest again, which has not taken it; returns at once."""
        mac = claim.mac

        def spare(xml: str) -> str:
            read = domain_xml.read(xml)
            return failover_pair.transient_device(
                read, str(mac), claim.vf, plain=claim.set_mac, managed=claim.managed
            )

        def plug() -> None:
            gone = mac is None or self._store.get(claim.vf) is None
            # what a migration has unplugged comes back by itself at its end
            if mac is not None and not gone and not self._hypervisor.migrating(claim.domain):
                self._hypervisor.plug_again(claim.domain, mac, spare)

        # The guest may take long to let go, and all other work must not wait for it.
        threading.Thread(target=self._do, args=(plug,), name="plug-again", daemon=True).start()

    def follow(self, uuid: str) -> list[str]:
        """A VF may have been plugged into a running domain or out of it: claim, give back, and stamp what it has now.

        Returns the changes made, in words.
        """
        held = self._store.of_domain(uuid)  # looked at first: what is claimed later may be plugged in later
        seen = self._store.clock()
        xml = self._hypervisor.xml(uuid)
        if xml is None:
            return []
        running = domain_xml.read(xml, lenient=True)
        changes: list[str] = []
        for claim in held:
            if _is_unplugged(claim, running):
                self._drop_unplugged(claim, changes)
        for claim in self._operations.adoption.adopt(running, seen):
            known = claim.id in {each.id for each in held}
            what = f"lets {claim.vf} cross by {claim.strategy}" if known else f"was given {claim.vf}"
            changes.append(f"guest '{claim.domain_name}' {what}")
            changes += self._cleanup.converge(claim)
        for change in changes:
            self._log.event("plug", change, domain=running.name, uuid=uuid)
        if changes:
            self.settle(uuid)
        return changes

    def _drop_unplugged(self, claim: Claim, changes: list[str]) -> None:
        done = self._cleanup.drop(claim)
        if done is not None:
            changes.append(f"guest '{claim.domain_name}' gave {claim.vf} back")
            self.on_unplugged(claim)
            changes += done

    def settle(self, uuid: str) -> None:
        """Leave on a domain that runs here what it needs for its next migration and its next boot."""
        for attempt in range(_ATTEMPTS):
            try:
                self._stamp(uuid)
                self._mend_definition(uuid)
            except VfmigrateError as error:
                if attempt + 1 == _ATTEMPTS:
                    self._log.event(
                        "settle-failed", f"domain {uuid}: {error}", level=journal.WARNING, uuid=uuid
                    )
                time.sleep(_ATTEMPT_SECONDS)
            else:
                break
        for claim in self._store.of_domain(uuid):
            if claim.incoming and claim.state == PLUGGED:
                self._store.change(claim, incoming=False)

    def marks(self, uuid: str) -> tuple[Mark, ...]:
        """What the metadata of a domain should say of its VFs."""
        marks = []
        for claim in self._store.of_domain(uuid):
            pf = self._host.sysfs.physfn(claim.vf)
            if pf is None:
                continue
            card = self._host.card(pf)
            pool = self._config.pools.get(claim.pool)
            # what the pool gives a guest that asks for nothing is not asked for on the next host either
            by_default = claim.vlan is None and pool is not None and claim.trunks == pool.default_trunks
            marks.append(
                Mark(
                    mac=claim.mac,
                    address=claim.vf,
                    pool=claim.pool,
                    vlan=claim.vlan,
                    trunks=() if by_default else claim.trunks,
                    strategy=claim.strategy,
                    psid=card.psid,
                    firmware=card.firmware,
                    msix=self._host.sysfs.msix_count(claim.vf),
                    pf=pf,
                )
            )
        return tuple(marks)

    def _stamp(self, uuid: str) -> None:
        xml = self._hypervisor.xml(uuid)
        if xml is None:
            return
        present = domain_xml.read(xml, lenient=True).marks
        marks = metadata.merged(present, self.marks(uuid))
        if marks != present:
            self._hypervisor.stamp(uuid, marks)
            addresses = " ".join(str(mark.address) for mark in marks if mark.address is not None)
            self._log.event("stamp", f"domain {uuid}: metadata names {addresses}", uuid=uuid, vf=addresses)

    def _mend_definition(self, uuid: str) -> None:
        """After --persistent: the definition came along unchanged and still names the source's VFs."""
        claims = [
            claim for claim in self._store.of_domain(uuid) if claim.incoming and claim.origin is not None
        ]
        xml = self._hypervisor.persistent_xml(uuid) if claims else None
        if xml is None:
            return
        addresses = {}
        for interface in domain_xml.read(xml, lenient=True).interfaces:
            for claim in claims:
                if _is_named(interface, claim) and interface.address != claim.vf:
                    addresses[interface.position] = claim.vf
        if addresses:
            self._hypervisor.define(domain_xml.readdress(xml, addresses))
            told = " ".join(str(vf) for vf in addresses.values())
            self._log.event("mend", f"domain {uuid}: its definition now names {told}", uuid=uuid, vf=told)

    # -- make everything true again

    def reconcile(self) -> list[str]:
        """Drop claims that nobody needs, adopt what running domains hold, converge every VF of every pool.

        Returns the changes made, in words. What fails is logged and left for the next time.
        """
        changes: list[str] = []
        before = self._store.clock()
        running: Optional[dict[str, str]] = None
        try:
            running = self._hypervisor.running()
        except VfmigrateError as error:
            self._log.event("reconcile", f"without libvirt's word: {error}", level=journal.DEBUG)
        domains = {uuid: self._read(xml) for uuid, xml in (running or {}).items()}
        for claim in self._store.all():
            reason = self._reason_to_drop(claim, before, running)
            done = self._cleanup.drop(claim, gone=True) if reason else None
            if done is not None:
                changes.append(f"dropped the claim of guest '{claim.domain_name}' on {claim.vf}: {reason}")
                changes += done
        for each in domains.values():
            if each is not None:
                changes += self._follow_all(each, before)
        for pool in self._config.pools.values():
            for pf in pool.pfs:
                if self._host.sysfs.exists(pf):
                    self._converge_pf(pf, changes)
        changes += self._remove_orphaned_ports()
        if running is not None:
            changes += self._catch_up()
            changes += self._keep_networks()
            self.on_running(running)
        for change in changes:
            self._log.event("reconcile", change)
        return changes

    @staticmethod
    def _reason_to_drop(claim: Claim, now: float, running: Optional[dict[str, str]]) -> str:
        if claim.expires is not None and claim.expires < now:
            return "the guest never came"
        if running is None or claim.expires is not None or claim.since > now - _GRACE_SECONDS:
            return ""
        return "" if claim.domain in running else "the guest does not run here"

    def _read(self, xml: str) -> Optional[domain_xml.Domain]:
        try:
            return domain_xml.read(xml, lenient=True)
        except VfmigrateError as error:
            self._log.event("adopt-failed", str(error), level=journal.WARNING)
            return None

    def _follow_all(self, running: domain_xml.Domain, now: float) -> list[str]:
        """What `follow` does, for a domain that may have changed while nobody listened."""
        changes: list[str] = []
        for claim in self._store.of_domain(running.uuid):
            if claim.since < now - _GRACE_SECONDS and _is_unplugged(claim, running):
                self._drop_unplugged(claim, changes)
        adopted = self._operations.adoption.adopt(running, now)
        changes += [f"adopted {claim.vf} of guest '{claim.domain_name}'" for claim in adopted]
        if changes:
            self.settle_soon(running.uuid)
        return changes

    def _catch_up(self) -> list[str]:
        """Do what an event was to lead to that came while nobody listened, as when the daemon was being upgraded."""
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
            self._log.event("reconcile-failed", str(error), level=journal.WARNING)
            return []
        here = {uuid: name for uuid, name in arrived.items() if uuid in executing}
        for uuid in here:
            self._announcer.announce(uuid)
            self._operations.moves.arrived(uuid)
            self.on_resumed(uuid)
            self.settle_soon(uuid)
        return [f"guest '{name}' resumed here unnoticed" for name in here.values()]

    def _converge_pf(self, pf: PciAddress, changes: list[str]) -> None:
        try:
            different = self._converger.survey(pf)
        except VfmigrateError as error:
            self._log.event("reconcile-failed", f"PF {pf}: {error}", level=journal.WARNING)
            return
        for vf in different:
            changes += self._cleanup.converge_vf(vf)

    def _keep_networks(self) -> list[str]:
        """What provisioning could not do while libvirt did not run, as at boot."""
        try:
            return self.networks.keep()
        except VfmigrateError as error:
            self._log.event("reconcile-failed", str(error), level=journal.WARNING)
            return []

    def _remove_orphaned_ports(self) -> list[str]:
        """Take away ports in the name of a claim that is no more, and those of representors that are no more.

        The latter have vanished or been renamed; a claim that lives has got another port under the new name.
        """
        removed: list[str] = []
        try:
            ports = self._host.ovs.owned_ports()
            owners = {claim.id for claim in self._store.all()}  # looked at last: a port follows its claim
            for port in ports:
                reason = ""
                if port.owner not in owners:
                    reason = "its guest is gone"
                elif self._host.links.find(port.name) is None:
                    reason = f"there is no network device {port.name} any more"
                if reason and port.owner is not None and self._host.ovs.unplug(port.name, port.owner):
                    removed.append(f"unplugged {port.name} from {port.bridge}: {reason}")
        except VfmigrateError as error:
            self._log.event("reconcile-failed", str(error), level=journal.WARNING)
        return removed
