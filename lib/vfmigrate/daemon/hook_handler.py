# SPDX-License-Identifier: GPL-2.0-or-later
"""Handle each hook operation: change the claims, converge, answer.

Runs in the daemon for a hook whose caller inside libvirt holds the domain's lock. It therefore never calls libvirt, and
holds the claims' lock only while it looks and takes.

The operations and their order: https://libvirt.org/hooks.html and docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Optional

from vfmigrate.claims.claim_store import PLUGGED, PREPARED, Claim
from vfmigrate.converge.services import HostServices
from vfmigrate.converge.vf_use import Sight
from vfmigrate.daemon.watchdog import EVENT_SECONDS
from vfmigrate.domain.domain_xml import Domain, read
from vfmigrate.errors import Refused, UsageError, VfmigrateError
from vfmigrate.events import table
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.adoption import Adoption
from vfmigrate.reservations.cleanup import Cleanup
from vfmigrate.reservations.migration_slots import MigrationSlots
from vfmigrate.reservations.placement import Placement, Placements
from vfmigrate.reservations.reservation import Reservations
from vfmigrate.reservations.selection import Selection
from vfmigrate.rules import compatibility

#: operations that libvirt stops when the hook fails; a failure of the others is logged
REFUSING = frozenset({"migrate", "restore", "prepare", "start"})
#: operations that begin the arrival of a guest
ARRIVING = frozenset({"migrate", "restore"})
#: operations that say that a guest's QEMU has ended
ENDING = frozenset({"stopped", "release"})
#: seconds for which entries about a guest that is gone keep its trace ID: what is cleaned up after it belongs to it
_TRACED_SECONDS = 60.0
# Less than the hook waits (GRACE in hooks/qemu): as long as it waits, libvirt has begun nothing else with the guest.
_LATE_SECONDS = 1.0


def seconds(operation: str, happened: Optional[float], now: float) -> float:
    """How long handling an operation may take, which happened when libvirt called the hook.

    Where libvirt waits for the answer, it has waited since then; where it does not, the daemon has the whole time.
    """
    waited = now - happened if happened is not None and operation in REFUSING else 0.0
    return EVENT_SECONDS - min(max(waited, 0.0), EVENT_SECONDS)


class HookHandler:
    """Answers the hook, one method for each operation."""

    def __init__(
        self,
        services: HostServices,
        *,
        on_started: Callable[[str], None] = lambda _uuid: None,
    ) -> None:
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._converger = services.converger
        self._log = services.log
        self.slots = MigrationSlots(services.config, services.host, services.store)
        self._placements = Placements(services.config, services.host, services.store)
        self._cleanup = Cleanup(services.store, services.converger, services.log)
        self._selection = Selection(services.host, services.store, self.slots, self._cleanup)
        self._reservations = Reservations(
            services,
            slots=self.slots,
            placements=self._placements,
            cleanup=self._cleanup,
        )
        self.adoption = Adoption(services.host, services.store, self._placements, services.log)
        self._on_started = on_started

    def handle(
        self,
        operation: str,
        sub_operation: str,
        extra: str,
        xml: str,
        *,
        name: str = "",
        happened: Optional[float] = None,
    ) -> Optional[str]:
        """Handle an operation; returns the XML that replaces the domain's, or None to leave it unchanged.

        `name`: what libvirt calls the domain. `happened`: when it called the hook, in seconds of the claims' clock.
        Raises Refused, HostError, Unreachable or InputError where libvirt must not go on.
        """
        operations: dict[str, Callable[[Domain, str], Optional[str]]] = {
            "migrate": self._reservations.arrive,
            "restore": self._reservations.restore,
            "prepare": self._prepare,
            "start": self._start,
            "started": self._started,
            "stopped": self._stopped,
            "release": self._release,
            "reconnect": self._reconnect,
        }
        if operation not in operations:
            raise UsageError(f"unknown hook operation of libvirt: '{operation[:20]}'")
        domain = self._read(operation, xml, name)
        if domain is None:
            return None
        before = self._store.clock()
        if happened is not None and self._is_overtaken(operation, domain, before - happened):
            self._log.event(
                operation,
                f"{operation} of guest '{domain.name}' ignored: it came late, and the guest runs again",
                kind=table.OVERTAKEN,
                domain=domain.name,
                uuid=domain.uuid,
                outcome="ignored",
            )
            return None
        self._trace(operation, domain)
        try:
            answer = operations[operation](domain, xml)
        except VfmigrateError as error:
            self._log.failed(
                operation,
                error,
                about=f"{operation} of guest '{domain.name}'",
                kind=table.REFUSED if operation in REFUSING else table.FAILED,
                domain=domain.name,
                uuid=domain.uuid,
                pool=" ".join(dict.fromkeys(mark.pool for mark in domain.marks if mark.pool is not None)),
                outcome="refused" if operation in REFUSING else "failed",
            )
            if operation in REFUSING:
                raise
            return None
        claims = self._store.of_domain(domain.uuid)
        if operation in ARRIVING:
            self._keep_trace(domain, claims)
        if claims or operation == "release":
            self._log.event(
                operation,
                f"{operation} of guest '{domain.name}'"
                + (f" ({extra})" if extra != "-" else "")
                + "".join(f": {claim.vf} {claim.state}" for claim in claims),
                domain=domain.name,
                uuid=domain.uuid,
                vf=" ".join(str(claim.vf) for claim in claims),
                pool=" ".join(dict.fromkeys(claim.pool for claim in claims)),
                outcome="done",
                sub_operation=sub_operation,
                reason=extra,
                ms=round((self._store.clock() - before) * 1000),
                **self._source(operation, domain),
            )
        if operation == "release":
            self._log.traces.end_soon(domain.uuid, _TRACED_SECONDS)
        return answer

    def _read(self, operation: str, xml: str, name: str) -> Optional[Domain]:
        """The domain of an operation. Where libvirt does not stop, XML that cannot be read is no reason to stop either.

        The end of a guest needs its claims only, which know its name. None when nothing can be done.
        """
        try:
            return read(xml, lenient=operation not in REFUSING)
        except VfmigrateError as error:
            if operation in REFUSING:
                raise
            self._log.failed(
                operation, error, about=f"{operation} of guest '{name}'", kind=table.FAILED, domain=name
            )
        known = {claim.domain for claim in self._store.all() if claim.domain_name == name}
        if operation not in ENDING or len(known) != 1:
            return None
        return Domain(uuid=known.pop(), name=name, interfaces=(), viommu=False)

    def _trace(self, operation: str, domain: Domain) -> None:
        """Have the log know which migration of the guest this is about.

        The XML of a guest that arrives, and of one that has ended, says it. A guest that starts without having been
        announced is started here, whatever its XML says.
        """
        traces = self._log.traces
        if operation in ARRIVING | ENDING:
            traces.follow(domain.uuid, domain.trace.id if domain.trace is not None else None)
        elif operation == "prepare" and traces.under_way(domain.uuid) is None:
            traces.follow(domain.uuid, None)

    def _keep_trace(self, domain: Domain, claims: list[Claim]) -> None:
        """Have the claims of an arriving guest name its migration: a daemon that is started meanwhile knows it then."""
        trace = self._log.traces.under_way(domain.uuid)
        for claim in claims:
            if claim.incoming and claim.trace != trace:
                self._store.note(claim, trace=trace)

    @staticmethod
    def _source(operation: str, domain: Domain) -> dict[str, Any]:
        """The host that a guest comes from, as a field of the log."""
        host = domain.trace.host if domain.trace is not None else None
        return {"source": host} if operation in ARRIVING and host is not None else {}

    def _is_overtaken(self, operation: str, domain: Domain, age: float) -> bool:
        """Whether the guest, whose end `age` seconds ago is reported only now, already runs again.

        The hook does not wait for a blocked daemon, so a later start of the guest may be handled first.
        """
        if operation not in ENDING or age < _LATE_SECONDS:
            return False
        return any(self._host.sysfs.in_use(claim.vf) for claim in self._store.of_domain(domain.uuid))

    # -- a guest is about to start, from cold or from elsewhere

    def _prepare(self, domain: Domain, _xml: str) -> Optional[str]:
        self._take_named(domain, PREPARED)
        return None

    def _start(self, domain: Domain, _xml: str) -> Optional[str]:
        self._take_named(domain, PLUGGED)
        self.slots.settled(domain.uuid)
        for claim in self._store.of_domain(domain.uuid):
            if claim.slot is not None:
                self._store.change(claim, expires=None)  # plugged in once the guest runs; see arrivals
        return None

    def _take_named(self, domain: Domain, state: str) -> list[Claim]:
        """Claim the VFs of our pools that the XML names, and make the host match."""
        placements = list(self._placements.named(domain))
        for vf, _ in placements:
            if self._store.releasing(vf) is not None:
                self._converger.converge(vf)  # what its last guest left must be gone first
        pools = {vf: placement.pool for vf, placement in placements if not self._is_own(vf, domain)}
        # libvirt has just chosen these: they must be able to take the device state
        chosen = pools if self.slots.is_expected(domain.uuid) else {}
        facts = self._selection.facts(chosen)

        def take(sight: Sight) -> list[Claim]:
            for vf, placement in placements:
                self._check_free(domain, vf, placement, sight)
            return [
                self._take(domain, vf, placement, state, incoming=vf in chosen)
                for vf, placement in placements
            ]

        claims = self._selection.decide(pools, facts, domain.uuid, take)
        self._cleanup.release(*self._left_over(domain, claims), gone=True)
        for claim in claims:
            self._converger.converge(claim.vf)
        return claims

    def _left_over(self, domain: Domain, claims: list[Claim]) -> list[Claim]:
        """The claims of a guest's earlier run, whose end was not reported: the guest is only starting, with `claims`.

        With one of them, a MAC would have two ports, with one `iface-id`. A claim with a slot is of this run: its VF is
        plugged in later.
        """
        vfs, macs = {claim.vf for claim in claims}, {claim.mac for claim in claims} - {None}
        return [
            claim
            for claim in self._store.of_domain(domain.uuid)
            if claim.vf not in vfs and claim.slot is None and (claim.expires is None or claim.mac in macs)
        ]

    def _is_own(self, vf: PciAddress, domain: Domain) -> bool:
        claim = self._store.get(vf)
        return claim is not None and claim.domain == domain.uuid

    def _check_free(
        self,
        domain: Domain,
        vf: PciAddress,
        placement: Placement,
        sight: Sight,
    ) -> None:
        if self._is_own(vf, domain):
            return
        obstacle = self._selection.obstacle(vf, sight)
        if obstacle is not None:
            remedy = "give the guest another VF, or use a hostdev network of the pool"
            raise Refused(f"VF {vf} cannot be given to guest '{domain.name}': it is {obstacle}", remedy)
        if vf in sight.facts and placement.interface.mark is not None and placement.moves:
            compatibility.check_compatible(placement.interface.mark, vf, sight.facts[vf])

    def _take(
        self, domain: Domain, vf: PciAddress, placement: Placement, state: str, *, incoming: bool
    ) -> Claim:
        current = self._store.get(vf) if self._is_own(vf, domain) else None
        claim = self._placements.claim(domain, placement, vf, state)
        if state == PLUGGED:
            # The guest starts: however long that takes, nobody else gets the VF. libvirt reports how it ends.
            claim = replace(claim, expires=None)
        if current is None:
            claim = replace(claim, incoming=incoming, trace=self._log.traces.under_way(domain.uuid))
        if current is not None:
            claim = replace(
                claim, id=current.id, incoming=current.incoming, origin=current.origin, trace=current.trace
            )
        if current is not None and placement.interface.mark is None:
            # Claimed with more than the XML contains: by a client, or at `migrate` by an older daemon.
            claim = replace(
                claim,
                mac=current.mac,
                set_mac=current.set_mac,
                vlan=current.vlan,
                trunks=current.trunks,
                strategy=current.strategy,
            )
        return self._store.put(claim)

    def _started(self, domain: Domain, _xml: str) -> Optional[str]:
        self._on_started(domain.uuid)
        return None

    # -- a guest is gone

    def _stopped(self, domain: Domain, _xml: str) -> Optional[str]:
        expires = self._store.clock() + self._config.claim_timeout
        ended = [
            self._store.note(claim, state=PREPARED, expires=expires)
            for claim in self._store.of_domain(domain.uuid)
        ]
        self._cleanup.converge(*(claim for claim in ended if claim is not None))
        return None

    def _release(self, domain: Domain, _xml: str) -> Optional[str]:
        self.adoption.gone(domain.uuid)
        self._cleanup.release(*self._store.of_domain(domain.uuid), gone=True)
        self.slots.settled(domain.uuid)
        return None

    # -- libvirt was restarted and found its guests running

    def _reconnect(self, domain: Domain, _xml: str) -> Optional[str]:
        self._cleanup.converge(*self.adoption.adopt(domain, self._store.clock()))
        return None
