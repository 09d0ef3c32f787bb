# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims and metadata follow the domains that run here: VFs plugged in and unplugged, marks, definitions.

Everything here calls libvirt, and so runs in the event loop's thread, which answers no hook and holds no lock while it
waits for libvirt.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.converge.services import HostServices
from vfmigrate.domain import device_text, domain_xml, metadata, trace_mark
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import VfmigrateError
from vfmigrate.model import strategy
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.adoption import Adoption
from vfmigrate.reservations.cleanup import Cleanup
from vfmigrate.rules import failover_pair

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor  # imports libvirt-python, which pure tests do without

# A domain that has just resumed is often still locked by the end of its migration.
_ATTEMPTS = 6
_ATTEMPT_SECONDS = 1.0
# How long after its arrival entries about a guest have the trace ID of its migration: announcements and VFs that are
# plugged in after it belong to it.
_TRACED_SECONDS = 600.0

#: has the event loop do some work for a domain, given by UUID, after a number of seconds
Later = Callable[[float, str, Callable[[], object]], None]


def _is_unplugged(claim: Claim, running: domain_xml.Domain) -> bool:
    """Whether a domain runs without a VF that it had, and that nothing will plug in again (arrivals).

    The VF of a failover pair is plugged in again while the guest has its standby, unless another VF was.
    """
    had = claim.state == PLUGGED and claim.expires is None and claim.slot is None
    if not had or claim.vf in {interface.address for interface in running.interfaces}:
        return False
    waits = claim.traits.teamed and failover_pair.has_standby(running, claim.mac)
    return not waits or any(interface.wanted_mac == claim.mac for interface in running.interfaces)


def _is_of(claim: Claim, interface: domain_xml.VfInterface, *, by_address: bool) -> bool:
    """Whether a claim is that of an interface of a definition: by the VF's address on the other host, or by MAC."""
    macs = {interface.wanted_mac, claim.mac}
    if by_address:
        return interface.address == claim.origin and len(macs - {None}) <= 1
    return len(macs) == 1 and None not in macs


def _vfs_here(definition: domain_xml.Domain, claims: Iterable[Claim]) -> dict[int, PciAddress]:
    """The VFs of this host for the interfaces of a definition that comes from another host, by position.

    An interface is found by MAC and by its VF's address on the other host; with one alone, if the other says nothing.
    """
    left = sorted(claims, key=lambda claim: claim.twin)
    found: dict[int, PciAddress] = {}
    for by_address in (True, False):
        for interface in definition.interfaces:
            if interface.address is None or interface.position in found:
                continue
            for claim in left:
                if _is_of(claim, interface, by_address=by_address):
                    found[interface.position] = claim.vf
                    left.remove(claim)
                    break
    return found


def _device_of(mark: Mark, running: domain_xml.Domain, xml: str) -> Optional[str]:
    """The XML of a VF's device, if its strategy unplugs it; what was kept where it is unplugged now."""
    traits = strategy.named(mark.strategy)
    if not (traits.unplugged_first or traits.teamed):
        return None
    for interface in running.interfaces:
        if interface.address is not None and interface.address == mark.address:
            text = device_text.kept(domain_xml.device(xml, interface.position))
            return text if len(text) <= metadata.MAX_DEVICE else None
    return next((each.device for each in running.marks if each.mac == mark.mac and each.device), None)


class DomainSync:
    """Keeps what is claimed for a running domain, and what its XML says, in step with what it has."""

    def __init__(
        self,
        services: HostServices,
        adoption: Adoption,
        hypervisor: Hypervisor,
        later: Later,
        *,
        on_unplugged: Callable[[Claim], None] = lambda _claim: None,
    ) -> None:
        """`on_unplugged` is called with a VF that was unplugged from its running guest."""
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._adoption = adoption
        self._cleanup = Cleanup(services.store, services.converger, services.log)
        self._hypervisor = hypervisor
        self._log = services.log
        self._later = later
        self._on_unplugged = on_unplugged
        self._hostname = socket.gethostname()

    def follow(self, uuid: str) -> list[str]:
        """Claim and give back what was plugged into or unplugged from a running domain, and write its metadata.

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
        for claim in self._adoption.adopt(running, seen):
            known = claim.id in {each.id for each in held}
            what = f"now has {claim.vf} with strategy {claim.strategy}" if known else f"was given {claim.vf}"
            changes.append(f"guest '{claim.domain_name}' {what}")
            changes += self._cleanup.converge(claim)[0]
        for change in changes:
            self._log.event("plug", change, domain=running.name, uuid=uuid)
        if changes:
            self.settle(uuid)
        return changes

    def _drop_unplugged(self, claim: Claim, changes: list[str]) -> None:
        for _released, done in self._cleanup.release(claim):
            changes.append(f"guest '{claim.domain_name}' released {claim.vf}")
            self._on_unplugged(claim)
            changes += done

    def catch_up(self, running: domain_xml.Domain, now: float, grace: float) -> list[str]:
        """As `follow`, for a domain that may have changed while libvirt's events were not received.

        `now` is the clock of the claims when libvirt was asked; claims that changed
        less than `grace` seconds before are left.
        """
        changes: list[str] = []
        for claim in self._store.of_domain(running.uuid):
            if claim.since < now - grace and _is_unplugged(claim, running):
                self._drop_unplugged(claim, changes)
        if self._look_where_it_sends(running.uuid):
            self.settle_soon(running.uuid)
        adopted = self._adoption.adopt(running, now)
        changes += [f"adopted {claim.vf} of guest '{claim.domain_name}'" for claim in adopted]
        if changes:
            self.settle_soon(running.uuid)
        return changes

    def _look_where_it_sends(self, uuid: str) -> bool:
        """Note in which VLANs of open trunks a guest was seen; returns whether there are others than before.

        The next host announces it in these. A guest that is silent for some minutes is forgotten by its bridge, and not
        here.
        """
        changed = False
        for claim in self._store.of_domain(uuid):
            pool = self._config.pools.get(claim.pool)
            if claim.mac is None or pool is None or not (claim.is_open_trunk and claim.state == PLUGGED):
                continue
            try:
                seen = self._host.ovs.seen_in(pool.bridge, [claim.mac])[claim.mac]
            except VfmigrateError as error:
                self._log.failed("look-failed", error, domain=claim.domain_name)
                continue
            known = tuple(sorted({*claim.seen_in, *seen})[: metadata.MAX_SEEN])
            if known != claim.seen_in and self._store.change(claim, seen_in=known) is not None:
                changed = True
        return changed

    def settle_soon(self, uuid: str) -> None:
        """Have the event loop call `settle` for a domain."""
        self._later(0.0, uuid, lambda: self.settle(uuid))

    def settle(self, uuid: str, attempt: int = 1) -> None:
        """Write to a domain that runs here what its next migration and its next boot need: metadata and definition.

        Where libvirt refuses, the event loop tries again a second later, and does other work meanwhile.
        """
        try:
            self._stamp(uuid)
            self._mend_definition(uuid)
        except VfmigrateError as error:
            if attempt < _ATTEMPTS:
                self._later(_ATTEMPT_SECONDS, uuid, lambda: self.settle(uuid, attempt + 1))
                return
            self._log.failed("settle-failed", error, about=f"domain {uuid}", uuid=uuid)
        claims = self._store.of_domain(uuid)
        if claims and self._log.traces.end_soon(uuid, _TRACED_SECONDS):
            self._log_arrival(uuid, claims[0].domain_name)
        for claim in claims:
            if claim.state == PLUGGED and (claim.incoming or claim.trace is not None):
                self._store.note(claim, incoming=False, trace=None)

    def _log_arrival(self, uuid: str, name: str) -> None:
        """Log that a guest has arrived, with what libvirt measured."""
        stats = self._hypervisor.arrival(uuid)
        measured: dict[str, Any] = {
            field: stats[key]
            for field, key in (("downtime_ms", "downtime"), ("total_ms", "time_elapsed"))
            if key in stats
        }
        times = [
            *([f"downtime {measured['downtime_ms']} ms"] if "downtime_ms" in measured else []),
            *([f"migrated in {measured['total_ms'] / 1000:.1f} s"] if "total_ms" in measured else []),
        ]
        text = f"guest '{name}' has arrived" + (f": {', '.join(times)} (by libvirt)" if times else "")
        self._log.event("arrived", text, domain=name, uuid=uuid, **measured)

    def marks(self, uuid: str) -> tuple[Mark, ...]:
        """What the metadata of a domain should contain about its VFs."""
        marks = []
        for claim in self._store.of_domain(uuid):
            pf = self._host.sysfs.physfn(claim.vf)
            if pf is None:
                continue
            card = self._host.card(pf)
            pool = self._config.pools.get(claim.pool)
            # a default of the pool is not written down: the next host's pool has its own
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
                    seen_in=claim.seen_in,
                )
            )
        return tuple(marks)

    def _stamp(self, uuid: str) -> None:
        xml = self._hypervisor.xml(uuid)
        if xml is None:
            return
        running = domain_xml.read(xml, lenient=True)
        present = running.marks
        self._stamp_trace(running)
        # in the order of the guest's interfaces: that is how interfaces that share a MAC are told apart
        places = {each.address: each.position for each in running.interfaces}
        own = sorted(self.marks(uuid), key=lambda mark: places.get(mark.address, len(places)))
        own = [replace(mark, device=_device_of(mark, running, xml)) for mark in own]
        marks = metadata.merged(present, tuple(own))
        if marks != present:
            self._hypervisor.stamp(uuid, marks)
            addresses = " ".join(str(mark.address) for mark in marks if mark.address is not None)
            self._log.event("stamp", f"domain {uuid}: metadata names {addresses}", uuid=uuid, vf=addresses)

    def _stamp_trace(self, running: domain_xml.Domain) -> None:
        """Name the next migration of a guest that has VFs, unless it has a name that is not of the last one."""
        claims = self._store.of_domain(running.uuid)
        arrived_by = {self._log.traces.under_way(running.uuid), *(claim.trace for claim in claims)}
        if claims and (running.trace is None or running.trace.id in arrived_by):
            self._hypervisor.stamp_trace(running.uuid, trace_mark.new(self._hostname))
        elif not claims and running.trace is not None:  # its last VF was unplugged
            self._hypervisor.stamp_trace(running.uuid, None)

    def _mend_definition(self, uuid: str) -> None:
        """After a migration with --persistent the definition still names the source's VFs: name those of this host."""
        claims = [
            claim for claim in self._store.of_domain(uuid) if claim.incoming and claim.origin is not None
        ]
        xml = self._hypervisor.persistent_xml(uuid) if claims else None
        if xml is None:
            return
        definition = domain_xml.read(xml, lenient=True)
        present = {each.position: each.address for each in definition.interfaces}
        wanted = _vfs_here(definition, claims)
        addresses = {at: vf for at, vf in wanted.items() if present[at] != vf}
        if addresses:
            self._hypervisor.define(domain_xml.readdress(xml, addresses))
            vfs = " ".join(str(vf) for vf in addresses.values())
            self._log.event("mend", f"domain {uuid}: the definition now names {vfs}", uuid=uuid, vf=vfs)

    def plug_again(self, claim: Claim) -> None:
        """Plug the VF of a failover pair into its guest again, whose driver does not use it. May wait long."""
        mac = claim.mac
        # what a migration has unplugged comes back by itself at its end
        if mac is None or self._store.get(claim.vf) is None or self._hypervisor.migrating(claim.domain):
            return

        def spare(xml: str) -> str:
            read = domain_xml.read(xml)
            return failover_pair.transient_device(
                read, mac, claim.vf, plain=claim.set_mac, managed=claim.managed
            )

        self._hypervisor.plug_again(claim.domain, mac, spare)
