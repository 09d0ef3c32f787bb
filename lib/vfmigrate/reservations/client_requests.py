# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims that a client requests before libvirt calls the hook: what vdsm's plugin asks for.

A client (a user named in `clients`) may claim a free VF of a pool for a time, and give back what no guest holds. It
cannot take the VF of another guest, and a claim that it forgets expires. Nothing here calls libvirt.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from vfmigrate.claims.claim_store import PLUGGED, RESERVED, Claim
from vfmigrate.config.pool import Pool
from vfmigrate.converge import vf_use
from vfmigrate.converge.services import HostServices
from vfmigrate.converge.vf_use import Sight
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import InputError, Refused, VfmigrateError
from vfmigrate.model.mac import parse_mac
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.strategy import STRATEGIES, Strategy
from vfmigrate.reservations.cleanup import Cleanup
from vfmigrate.reservations.departures import Departures
from vfmigrate.reservations.migration_slots import MigrationSlots, at_most, check_number
from vfmigrate.reservations.selection import Selection
from vfmigrate.rpc.protocol import Request
from vfmigrate.rules import compatibility
from vfmigrate.rules.spread import Sibling, Wish

SCHEMA = 1

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True)
class ClaimRequest:
    """What a client asks for: a VF for one interface of one guest."""

    domain: str
    name: str
    mac: str
    strategy: Strategy
    #: the pool to take a VF of; None when the VF is named
    pool: Optional[str] = None
    vf: Optional[PciAddress] = None
    vlan: Optional[int] = None
    #: libvirt binds the driver
    managed: bool = True
    #: the guest runs already and gets the VF now: libvirt calls no hook for it
    plug: bool = False
    #: the guest comes from another host, with the state of a VF like this
    source: Optional[Mark] = None
    #: the VF is taken out for a migration: where the guest sees it, here or, when it comes, from there on
    slot: Optional[PciAddress] = None
    #: the VF's address on the host the guest comes from, which its definition names
    origin: Optional[PciAddress] = None


def domain_of(request: Request) -> str:
    """The UUID of the guest that a request is about. Raises InputError when it is none."""
    text = request.text("domain").lower()
    if not _UUID.fullmatch(text):
        raise InputError(f"'{text[:40]!a}' is not the UUID of a guest")
    return text


def mac_of(request: Request) -> str:
    """The MAC of the interface that a request is about. Raises InputError when it is none."""
    return parse_mac(request.text("mac"))


def read_claim_request(request: Request) -> ClaimRequest:
    """What a `claim` request asks for. Raises InputError or UsageError."""
    domain, mac = domain_of(request), mac_of(request)
    name = request.text("strategy")
    if name not in STRATEGIES:
        raise InputError(
            f"there is no strategy '{name[:20]!a}'", f"the strategies are {', '.join(STRATEGIES)}"
        )
    pool, vf = request.optional_text("pool"), request.optional_text("vf")
    if pool is None and vf is None:
        raise InputError("a claim needs a pool or a VF")
    source = None
    if request.flag("incoming"):
        source = Mark(
            mac=mac,
            psid=request.optional_text("psid"),
            firmware=request.optional_text("firmware"),
            msix=request.optional_number("msix", 1, 2048),
        )
    slot, origin = request.optional_text("slot"), request.optional_text("origin")
    return ClaimRequest(
        slot=PciAddress.parse(slot) if slot is not None else None,
        origin=PciAddress.parse(origin) if origin is not None else None,
        domain=domain,
        name=(request.optional_text("name") or domain)[:255],
        mac=mac,
        strategy=STRATEGIES[name],
        pool=pool,
        vf=PciAddress.parse(vf) if vf is not None else None,
        vlan=request.optional_number("vlan", 1, 4094),
        managed=not request.flag("unmanaged"),
        plug=request.flag("plug"),
        source=source,
    )


def usual_vf(mac: str, vfs: list[PciAddress]) -> Optional[PciAddress]:
    """The VF that an interface gets when it is free: the same on every host with the same VFs.

    vdsm takes the address of a guest's VF on the source for one of its own host's, so a guest can only go where that
    VF is free. MACs of one range are handed out one after the other, so up to as many as there are VFs never meet.
    """
    return vfs[int(mac.replace(":", ""), 16) % len(vfs)] if vfs else None


class ClientRequests:
    """Answers the requests of clients."""

    def __init__(
        self,
        services: HostServices,
        *,
        on_kept: Callable[[str], None] = lambda _uuid: None,
        departures: Optional[Departures] = None,
        slots: Optional[MigrationSlots] = None,
    ) -> None:
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._converger = services.converger
        self._cleanup = Cleanup(services.store, services.converger, services.log)
        self._log = services.log
        self._slots = slots or MigrationSlots(services.config, services.host, services.store)
        self._selection = Selection(services.host, services.store, self._slots, self._cleanup)
        self._on_kept = on_kept
        self._departures = departures

    def answer(self, request: Request) -> dict[str, Any]:
        """Answer a client's request (docs/protocol.md). Raises VfmigrateError."""
        if request.name == "pools":
            return {"schema": SCHEMA, "pools": self.pools()}
        if request.name == "claim":
            claim = self.claim(read_claim_request(request))
            if claim is None:
                return {}
            mtu = self._config.pools[claim.pool].mtu
            return {"vf": str(claim.vf), "pool": claim.pool, "vlan": claim.vlan, "mtu": mtu}
        return self._answer_of(domain_of(request), request)

    def _answer_of(self, domain: str, request: Request) -> dict[str, Any]:
        """Answer what is asked of one guest."""
        if request.name == "counters":
            return {"ports": self.counters(domain, request.optional_text("pool"))}
        if request.name == "keep":
            return {"kept": self.keep(domain, mac_of(request))}
        if request.name == "give_back":
            mac = mac_of(request) if "mac" in request.arguments else None
            given = self.give_back(domain, mac, request.optional_text("pool"))
            return {"vfs": [str(claim.vf) for claim in given]}
        return {"vfs": [str(claim.vf) for claim in self.check_departure(domain)]}

    def claim(self, wanted: ClaimRequest) -> Optional[Claim]:
        """Take a VF for a guest, or keep the one that it has; None when the named VF is in no pool.

        Raises Refused, HostError or Unreachable; then nothing was taken.
        """
        pool = self._pool(wanted)
        if pool is None:
            return None
        vlan = wanted.vlan if wanted.vlan is not None else pool.vlan
        compatibility.check_vlans([vlan] if vlan is not None else [], pool)
        self._selection.check_bridges([pool])
        vfs = self._selection.vfs([pool]) if wanted.vf is None else {wanted.vf: pool}
        facts = self._selection.facts(vfs) if wanted.source is not None else {}

        def take(sight: Sight) -> tuple[Optional[Claim], Claim]:
            before = self._of(wanted.domain, wanted.mac)
            return before, self._take(wanted, pool, vlan, sight, before)

        before, claim = self._slots.in_turn(
            lambda: self._selection.decide(vfs, facts, wanted.domain, take), lambda _crowded: None
        )
        try:
            self._converger.converge(claim.vf)
            if wanted.strategy.state_travels:
                self._converger.check_ready(claim.vf)
        except VfmigrateError:
            if before is None or before.vf != claim.vf:
                self._cleanup.release(claim)
            raise
        finally:
            if before is not None and before.vf != claim.vf:
                self._cleanup.converge(before)
        self._log_claim("reserved", claim)
        return claim

    def _pool(self, wanted: ClaimRequest) -> Optional[Pool]:
        named = self._config.pools.get(wanted.pool) if wanted.pool is not None else None
        if wanted.pool is not None and named is None:
            there_are = ", ".join(sorted(self._config.pools)) or "none"
            raise Refused(
                f"this host has no pool '{wanted.pool[:64]}'; its pools: {there_are}",
                "add it to vfmigrate.conf, or correct the vNIC's vfmigrate_pool",
            )
        if wanted.vf is None:
            return named
        pf = self._host.sysfs.physfn(wanted.vf)
        pool = self._config.pool_of(pf) if pf is not None else None
        if named is not None and pool is not named:
            raise Refused(
                f"{wanted.vf} is not a VF of pool '{named.name}' on this host",
                "vdsm needs the VFs of a pool at the same addresses on all hosts: see docs/ovirt.md",
            )
        return pool

    def _take(
        self,
        wanted: ClaimRequest,
        pool: Pool,
        vlan: Optional[int],
        sight: Sight,
        before: Optional[Claim],
    ) -> Claim:
        if wanted.slot is not None and wanted.source is None:
            return self._lend(wanted, pool, before)
        if before is not None and wanted.vf in (None, before.vf) and before.pool == pool.name:
            if before.expires is None:
                return before  # the guest runs with it
            return self._store.put(
                replace(
                    before,
                    vlan=vlan if wanted.vlan is not None else before.vlan,
                    trunks=() if wanted.vlan is not None else before.trunks,
                    state=PLUGGED if wanted.plug else before.state,
                    expires=self._expiry(),
                )
            )
        if before is not None and before.expires is None:
            raise Refused(f"guest '{before.domain_name}' already has VF {before.vf} for MAC {wanted.mac}")
        vf = self._choose(wanted, pool, sight)
        taken = self._store.put(
            Claim(
                vf=vf,
                pool=pool.name,
                domain=wanted.domain,
                domain_name=wanted.name,
                state=PLUGGED if wanted.plug else RESERVED,
                since=0.0,
                expires=self._expiry(),
                mac=wanted.mac,
                vlan=vlan,
                trunks=pool.default_trunks if vlan is None else (),
                managed=wanted.managed,
                incoming=wanted.source is not None,
                strategy=wanted.strategy.name,
                slot=str(wanted.slot) if wanted.slot is not None else None,
                origin=wanted.origin,
            )
        )
        if before is not None:
            self._store.release(before)
        return taken

    def _lend(self, wanted: ClaimRequest, pool: Pool, before: Optional[Claim]) -> Claim:
        """Note in the guest's own claim that its VF is unplugged and must be plugged in again if the guest stays."""
        if before is None or before.expires is not None or before.pool != pool.name:
            raise Refused(
                f"guest '{wanted.name}' has no VF with MAC {wanted.mac} on this host for which vfmigrate has a claim",
                "run: vfmigrate reconcile",
            )
        return self._store.put(replace(before, strategy=wanted.strategy.name, slot=str(wanted.slot)))

    def _choose(
        self,
        wanted: ClaimRequest,
        pool: Pool,
        sight: Sight,
    ) -> PciAddress:
        moves = wanted.source is not None and wanted.strategy.uses_slot
        if wanted.vf is None:
            vfs = [vf for pf in pool.pfs for vf in self._host.sysfs.vfs(pf)]
            # vdsm needs the usual one, and plugs no VF in at a slot
            usual = usual_vf(wanted.mac, vfs) if wanted.slot is None else None
            own = [claim.vf for claim in self._store.of_domain(wanted.domain) if claim.pool == pool.name]
            pfs = [self._host.sysfs.physfn(vf) for vf in own]
            wish = Wish(siblings=[Sibling(each) for each in pfs if each is not None])
            return self._selection.choose(pool, sight, wanted.source, usual, moves=moves, wish=wish)
        return self._selection.named(pool, wanted.vf, wanted.name, sight, wanted.source, moves=moves)

    def keep(self, domain: str, mac: str) -> bool:
        """A running guest has the VF that was plugged in: its claim no longer expires.

        False when the guest does not hold a VF that was claimed for it.
        """
        claim = self._of(domain, mac)
        if claim is None or claim.state != PLUGGED or not self._host.sysfs.in_use(claim.vf):
            return False
        if self._store.change(claim, expires=None) is None:
            return False
        self._on_kept(domain)
        return True

    def give_back(self, domain: str, mac: Optional[str] = None, pool: Optional[str] = None) -> list[Claim]:
        """End the claims of a guest, or of one of its interfaces or pools; those on VFs that a process holds stay."""
        given = []
        for claim in self._store.of_domain(domain):
            if mac not in (None, claim.mac) or pool not in (None, claim.pool):
                continue
            if self._host.sysfs.in_use(claim.vf):
                continue
            if self._cleanup.release(claim):
                if mac is not None and claim.expires is None and self._departures is not None:
                    self._departures.unplugged(claim)
                self._log_claim("given-back", claim)
                given.append(claim)
        return given

    def check_departure(self, domain: str) -> list[Claim]:
        """The VFs of a guest that would migrate with their state. Raises Refused when one of them cannot."""
        if self._departures is not None:
            self._departures.leaving(domain)
        moving = [claim for claim in self._store.of_domain(domain) if claim.traits.state_travels]
        for claim in moving:
            self._converger.check_ready(claim.vf)
        for pf, number in Counter(self._host.sysfs.physfn(claim.vf) for claim in moving).items():
            pool = self._config.pool_of(pf) if pf is not None else None
            if pf is not None and pool is not None:
                check_number(moving[0].domain_name, pf, number, pool, at_most(self._host, pool, pf))
        return moving

    def counters(self, domain: str, pool: Optional[str] = None) -> list[dict[str, Any]]:
        """Traffic through the ports of a guest's VFs, or those of one pool; `sent` is what the guest sent."""
        ports = []
        for claim in self._store.of_domain(domain):
            if pool not in (None, claim.pool):
                continue
            state = self._host.observe(claim.vf) if claim.state == PLUGGED else None
            if state is None or state.ifindex is None or state.switch_port is None:
                continue
            traffic = self._host.links.traffic(state.ifindex)
            # what comes in by the representor is what the guest has sent
            ports.append({"mac": claim.mac, "vf": str(claim.vf), "sent": traffic.rx, "received": traffic.tx})
        return ports

    def pools(self) -> list[dict[str, Any]]:
        """Pools with their number of VFs, how many are free, and their cards; cheap enough to be asked often."""
        return [self._plain(pool) for pool in self._config.pools.values()]

    def _plain(self, pool: Pool) -> dict[str, Any]:
        values: dict[str, Any] = {"name": pool.name, "bridge": pool.bridge, "vfs": 0, "free": 0, "cards": []}
        for pf in pool.pfs:
            card: dict[str, Any] = {"pf": str(pf)}
            values["cards"].append(card)
            try:
                info = self._host.card(pf)
                vfs = self._host.sysfs.vfs(pf)
            except VfmigrateError as error:
                card["problem"] = str(error)
                continue
            card.update(psid=info.psid, firmware=info.firmware)
            card.update(migrating=len(self._slots.guests(pf)), max_migrating=at_most(self._host, pool, pf))
            values["vfs"] += len(vfs)
            unclaimed = {vf: pool for vf in vfs if self._store.blocking(vf) is None}
            values["free"] += len(unclaimed) - len(vf_use.unclaimed_use(self._host, unclaimed))
        return values

    def _of(self, domain: str, mac: str) -> Optional[Claim]:
        return next((claim for claim in self._store.of_domain(domain) if claim.mac == mac), None)

    def _expiry(self) -> float:
        return self._store.clock() + self._config.claim_timeout

    def _log_claim(self, event: str, claim: Claim) -> None:
        self._log.event(
            event,
            f"VF {claim.vf} of pool '{claim.pool}': {event} for guest '{claim.domain_name}', MAC {claim.mac}",
            domain=claim.domain_name,
            uuid=claim.domain,
            vf=str(claim.vf),
        )
