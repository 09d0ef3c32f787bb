# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens at each hook operation: change the claims, converge, answer.

Runs in the daemon, on behalf of a hook whose caller inside libvirt holds the domain's lock. It therefore never calls
libvirt, and holds the claims' lock only while it looks and takes.

The operations and their order: https://libvirt.org/hooks.html and docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Optional

from vfmigrate import choice, journal, pair
from vfmigrate.choice import CardFacts, Crowded
from vfmigrate.claims import PLUGGED, PREPARED, RESERVED, Claim, ClaimStore
from vfmigrate.config import Config, Pool
from vfmigrate.converge import Converger
from vfmigrate.domain import Domain, VfInterface, read, readdress
from vfmigrate.errors import HostError, Refused, UsageError, VfmigrateError
from vfmigrate.host import Host
from vfmigrate.journal import Journal
from vfmigrate.moves import Moves
from vfmigrate.pci import PciAddress
from vfmigrate.selection import Selection

#: operations whose failure libvirt takes as a refusal; a failure of any other is logged and changes nothing
REFUSING = frozenset({"migrate", "restore", "prepare", "start"})


@dataclass(frozen=True)
class _Arrival:
    """An interface on its way to this host, and what it needs here."""

    interface: VfInterface
    pool: Pool
    vlan: Optional[int]
    trunks: tuple[int, ...]
    #: it comes from a file, saved on this host or another
    restored: bool = False

    @property
    def moves(self) -> bool:
        """Whether the VF's state comes along."""
        return self.interface.teaming is None


class HookOperations:
    """Answers the hook, one method for each operation."""

    def __init__(
        self,
        config: Config,
        host: Host,
        store: ClaimStore,
        converger: Converger,
        log: Journal,
        *,
        on_started: Callable[[str], None] = lambda _uuid: None,
    ) -> None:
        self._config = config
        self._host = host
        self._store = store
        self._converger = converger
        self._log = log
        self.moves = Moves(config, host, store)
        self._selection = Selection(host, store, self.moves)
        self._on_started = on_started

    def handle(self, operation: str, sub_operation: str, extra: str, xml: str) -> Optional[str]:
        """Do what an operation asks for; returns the XML that replaces the domain's, or None to leave it.

        Raises Refused, HostError, Unreachable or InputError where libvirt must not go on.
        """
        operations: dict[str, Callable[[Domain, str], Optional[str]]] = {
            "migrate": self._migrate,
            "restore": self._restore,
            "prepare": self._prepare,
            "start": self._start,
            "started": self._started,
            "stopped": self._stopped,
            "release": self._release,
            "reconnect": self._reconnect,
        }
        if operation not in operations:
            raise UsageError(f"libvirt's hook operation '{operation[:20]}' is not one we know")
        domain = read(xml, lenient=operation not in REFUSING)
        before = self._store.clock()
        try:
            answer = operations[operation](domain, xml)
        except VfmigrateError as error:
            self._log.event(
                operation,
                f"{operation} of guest '{domain.name}': {error}",
                level=journal.WARNING,
                domain=domain.name,
                uuid=domain.uuid,
                outcome="refused" if operation in REFUSING else "failed",
            )
            if operation in REFUSING:
                raise
            return None
        claims = self._store.of_domain(domain.uuid)
        if claims or operation == "release":
            self._log.event(
                operation,
                f"{operation} of guest '{domain.name}'"
                + (f" ({extra})" if extra != "-" else "")
                + "".join(f": {claim.vf} {claim.state}" for claim in claims),
                domain=domain.name,
                uuid=domain.uuid,
                vf=" ".join(str(claim.vf) for claim in claims),
                outcome="done",
                sub_operation=sub_operation,
                reason=extra,
                ms=round((self._store.clock() - before) * 1000),
            )
        return answer

    # -- a guest comes from elsewhere: choose before anything moves

    def _migrate(self, domain: Domain, xml: str) -> Optional[str]:
        return self._arrive(domain, xml, self._arrivals(domain))

    def _restore(self, domain: Domain, xml: str) -> Optional[str]:
        """A saved guest gets the VFs that it had, where they are free, and so keeps to its definition."""
        arrivals = [replace(arrival, restored=True) for arrival in self._arrivals(domain)]
        return self._arrive(domain, xml, arrivals)

    def _arrive(self, domain: Domain, xml: str, arrivals: list[_Arrival]) -> Optional[str]:
        if not arrivals:
            return None
        choice.check_guest(domain, (arrival.interface for arrival in arrivals))
        for bridge in sorted({arrival.pool.bridge for arrival in arrivals}):
            if not self._host.ovs.bridge_exists(bridge):
                raise Refused(
                    f"there is no bridge '{bridge}' on this host", f"run: ovs-vsctl add-br {bridge}"
                )
        for arrival in arrivals:
            pair.check_crosses(domain, arrival.interface)
            self._check_pair(domain, arrival)
        self.moves.check_arrival(domain, ((arrival.interface, arrival.pool) for arrival in arrivals))
        facts = self._selection.facts({arrival.pool.name: arrival.pool for arrival in arrivals}.values())
        claims = self.moves.in_turn(
            lambda: self._reserve(domain, arrivals, facts), lambda crowded: self._tell_wait(domain, crowded)
        )
        try:
            for claim in claims.values():
                self._converger.converge(claim.vf)
                if claim.strategy == "vfio":
                    self._converger.check_ready(claim.vf)
            addresses = {position: claim.vf for position, claim in claims.items()}
            return readdress(xml, addresses) if addresses else None
        except VfmigrateError:
            self._take_back(domain, claims)
            raise

    def _tell_wait(self, domain: Domain, crowded: Crowded) -> None:
        self._log.event(
            "wait",
            f"guest '{domain.name}' waits at most {self._config.migrating_wait} s: {crowded.problem}",
            domain=domain.name,
            uuid=domain.uuid,
        )

    def _arrivals(self, domain: Domain) -> list[_Arrival]:
        arrivals = []
        for one in domain.interfaces:
            interface = replace(one, mark=choice.mark_of(one, self._config))
            pool = choice.pool_for(interface.mark, self._config) if interface.mark is not None else None
            if pool is not None:
                choice.check_vlan_element(interface)
                arrivals.append(self._arrival(domain, interface, pool))
        return arrivals

    @staticmethod
    def _arrival(domain: Domain, interface: VfInterface, pool: Pool) -> _Arrival:
        told = pair.with_vlan_of_standby(domain, interface)
        return _Arrival(interface, pool, *choice.port_vlan(told, pool))

    def _check_pair(self, domain: Domain, arrival: _Arrival) -> None:
        """Raises Refused when the VF is half of a failover pair that cannot work here."""
        if arrival.interface.teaming != "transient":
            return
        both = pair.pair_of(domain, arrival.interface)
        pair.check_vlan(both, arrival.vlan, arrival.trunks)
        standby = both.standby
        if standby.kind != "bridge" or standby.source is None:
            return  # libvirt itself refuses a guest whose network is missing, and does so as early
        if standby.openvswitch:
            there, remedy = self._host.ovs.bridge_exists(standby.source), f"ovs-vsctl add-br {standby.source}"
        else:
            there = self._host.links.find(standby.source) is not None
            remedy = f"ip link add {standby.source} type bridge"
        if not there:
            raise Refused(
                f"there is no bridge '{standby.source}' on this host, which guest '{domain.name}' needs "
                f"while its VF {both.vf.wanted_mac or ''} is away",
                f"run: {remedy}",
            )

    def _reserve(
        self, domain: Domain, arrivals: list[_Arrival], facts: dict[PciAddress, CardFacts]
    ) -> dict[int, Claim]:
        """Take a VF for each interface that has an address to rewrite: all of them, or none."""
        claims: dict[int, Claim] = {}
        promised: dict[Optional[str], PciAddress] = {}
        by_libvirt: list[PciAddress] = []
        with self._store.lock:
            for stale in self._store.of_domain(domain.uuid):
                if stale.incoming and stale.expires is not None and stale.slot is None:
                    # of an earlier attempt that libvirt gave up without telling, or promised to a client
                    self._store.drop(stale)
                    promised[stale.mac] = stale.vf
            self._expect(domain, by_libvirt)
            try:
                for arrival in arrivals:
                    interface = arrival.interface
                    mark = interface.mark if arrival.moves else None
                    preferred = promised.get(interface.wanted_mac)
                    if preferred is None and arrival.restored:
                        preferred = interface.address
                    besides = by_libvirt if interface.form == "network" else None
                    vf = self._selection.choose(
                        arrival.pool, facts, mark, preferred, moves=arrival.moves, besides=besides
                    )
                    if interface.address is not None:
                        claim = self._claim(domain, arrival, vf, RESERVED)
                        origin = interface.address if not arrival.restored else None
                        claims[interface.position] = self._store.put(
                            replace(claim, incoming=True, origin=origin)
                        )
                    elif arrival.moves:
                        by_libvirt.append(vf)
                        self._expect(domain, by_libvirt)
            except VfmigrateError:
                self._take_back(domain, claims)
                raise
        return claims

    def _take_back(self, domain: Domain, claims: dict[int, Claim]) -> None:
        for claim in claims.values():
            if self._store.drop(claim):
                self._converge_or_log(claim, reset_mac=claim.set_mac)
        self.moves.settled(domain.uuid)

    def _expect(self, domain: Domain, vfs: list[PciAddress]) -> None:
        pfs = (self._host.sysfs.physfn(vf) for vf in vfs)
        self.moves.expect(domain, (pf for pf in pfs if pf is not None))

    def _claim(self, domain: Domain, arrival: _Arrival, vf: PciAddress, state: str) -> Claim:
        interface = arrival.interface
        mark_strategy = interface.mark.strategy if interface.mark is not None else None
        strategy = "failover" if interface.teaming == "transient" else mark_strategy or "vfio"
        return Claim(
            vf=vf,
            pool=arrival.pool.name,
            domain=domain.uuid,
            domain_name=domain.name,
            state=state,
            since=0.0,
            expires=self._store.clock() + self._config.claim_timeout,
            mac=interface.wanted_mac,
            vlan=arrival.vlan,
            trunks=arrival.trunks,
            set_mac=interface.form == "hostdev" and interface.wanted_mac is not None,
            managed=interface.managed,
            strategy=strategy,
        )

    # -- a guest is about to start, from cold or from elsewhere

    def _prepare(self, domain: Domain, _xml: str) -> Optional[str]:
        self._take_named(domain, PREPARED)
        return None

    def _start(self, domain: Domain, _xml: str) -> Optional[str]:
        for claim in self._take_named(domain, PLUGGED):
            self._store.change(claim, expires=None)
        self.moves.settled(domain.uuid)
        for claim in self._store.of_domain(domain.uuid):
            if claim.slot is not None:
                self._store.change(claim, expires=None)  # plugged in once the guest runs; see arrivals
        return None

    def _take_named(self, domain: Domain, state: str) -> list[Claim]:
        """Claim the VFs of our pools that the XML names, and make the host match."""
        arrivals = []
        for interface in domain.interfaces:
            pool = self._pool_here(domain, interface)
            if pool is not None and interface.address is not None:
                choice.check_vlan_element(interface)
                arrival = self._arrival(domain, interface, pool)
                self._check_pair(domain, arrival)
                arrivals.append((interface.address, arrival))
        with self._store.lock:
            claims = [self._take(domain, vf, arrival, state) for vf, arrival in arrivals]
        for claim in claims:
            self._converger.converge(claim.vf)
        return claims

    def _pool_here(self, domain: Domain, interface: VfInterface) -> Optional[Pool]:
        """The pool of the VF that an interface names, or None when it is none of our business."""
        if interface.address is None:
            return None
        pf = self._host.sysfs.physfn(interface.address)
        if pf is not None:
            return self._config.pool_of(pf)
        marked = interface.mark.pool if interface.mark is not None else None
        if marked in self._config.pools and not self._host.sysfs.exists(interface.address):
            raise Refused(
                f"guest '{domain.name}' names VF {interface.address} of pool '{marked}', "
                "which does not exist on this host",
                "give it a VF of this host: virsh edit",
            )
        return None

    def _take(self, domain: Domain, vf: PciAddress, arrival: _Arrival, state: str) -> Claim:
        current = self._store.get(vf)
        if current is None:
            obstacle = self._selection.obstacle(vf, arrival.pool)
            if obstacle is not None:
                raise Refused(f"VF {vf} cannot be given to guest '{domain.name}': it is {obstacle}")
        elif current.domain != domain.uuid:
            raise Refused(
                f"VF {vf} cannot be given to guest '{domain.name}': it is {choice.holder(current)}",
                "give the guest another VF, or use a hostdev network of the pool",
            )
        claim = self._claim(domain, arrival, vf, state)
        if current is None and self.moves.is_expected(domain.uuid):
            # libvirt has chosen it just now: is it one that can take the state?
            if arrival.interface.mark is not None and arrival.moves:
                choice.check_compatible(arrival.interface.mark, vf, self._selection.facts([arrival.pool])[vf])
            claim = replace(claim, incoming=True)
        if current is not None:
            claim = replace(claim, id=current.id, incoming=current.incoming, origin=current.origin)
        if current is not None and arrival.interface.mark is None:
            # Claimed by somebody who knew more than the XML says: a client, or `migrate` of an older daemon.
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
        for claim in self._store.of_domain(domain.uuid):
            expires = self._store.clock() + self._config.claim_timeout
            if self._store.change(claim, state=PREPARED, expires=expires) is not None:
                self._converge_or_log(claim)
        return None

    def _release(self, domain: Domain, _xml: str) -> Optional[str]:
        for claim in self._store.of_domain(domain.uuid):
            if self._store.drop(claim):
                self._converge_or_log(claim, reset_mac=claim.set_mac)
        self.moves.settled(domain.uuid)
        return None

    def _converge_or_log(self, claim: Claim, *, reset_mac: bool = False) -> None:
        """Converge where nothing may be refused any more; what fails is done by the next reconcile."""
        try:
            self._converger.converge(claim.vf, reset_mac=reset_mac)
        except VfmigrateError as error:
            self._log.event(
                "converge-failed",
                f"VF {claim.vf} of guest '{claim.domain_name}': {error}",
                level=journal.WARNING,
                domain=claim.domain_name,
                vf=str(claim.vf),
            )

    # -- libvirt was restarted and found its guests running

    def _reconnect(self, domain: Domain, _xml: str) -> Optional[str]:
        for claim in self.adopt(domain):
            self._converge_or_log(claim)
        return None

    def adopt(self, domain: Domain) -> list[Claim]:
        """Claim what a running domain holds and nobody has claimed; returns the claims that are new or changed.

        Converging them is the caller's business. What another domain has claimed is logged and left.
        """
        adopted = []
        for interface in domain.interfaces:
            try:
                pool = self._pool_here(domain, interface)
                if pool is None or interface.address is None:
                    continue
                current = self._store.get(interface.address)
                if current is not None and current.domain == domain.uuid:
                    adopted += self._follow(domain, interface, current)
                    continue
                arrival = self._arrival(domain, interface, pool)
                claim = self._claim(domain, arrival, interface.address, PLUGGED)
                lost = self._lost_claim(claim)
                with self._store.lock:
                    current = self._store.get(interface.address)
                    if current is not None and current.domain == domain.uuid:
                        continue
                    if current is not None:
                        raise HostError(
                            f"guest '{domain.name}' runs with VF {current.vf}, {choice.holder(current)}"
                        )
                    adopted.append(self._store.put(replace(claim, expires=None, id=lost or claim.id)))
            except VfmigrateError as error:
                self._log.event("adopt-failed", str(error), level=journal.WARNING, domain=domain.name)
        return adopted

    def _follow(self, domain: Domain, interface: VfInterface, claim: Claim) -> list[Claim]:
        """A VF that became half of a pair while its guest runs, or is it no longer, crosses in another way now."""
        strategy = claim.strategy
        if pair.is_half(domain, interface):
            strategy = "failover"
        elif strategy == "failover" and interface.mark is not None:
            strategy = interface.mark.strategy or "vfio"
        if strategy == claim.strategy or claim.expires is not None:
            return []
        changed = self._store.change(claim, strategy=strategy)
        return [changed] if changed is not None else []

    def _lost_claim(self, claim: Claim) -> Optional[str]:
        """The id of an earlier claim, lost since: the VF's port is still in its name, and serves the same domain.

        A claim adopted under another id could not have that port, and it would go as nobody's, with a guest on it.
        """
        port = self._host.observe(claim.vf).switch_port
        serves = port is not None and port.external_ids.get("vm-id") == claim.domain
        return port.owner if port is not None and serves else None
