# SPDX-License-Identifier: GPL-2.0-or-later
"""Announce a guest's MAC addresses to the network as soon as it resumes here.

QEMU announces its emulated NICs only; after a VF has migrated, the switches learn its MAC when the guest transmits.
The frames go through the VF's own port, so that the bridge learns the MAC and they leave with the port's VLAN tag.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from vfmigrate import deadline
from vfmigrate.announce.method import BridgePort, Method, method_for
from vfmigrate.announce.rarp import ROUNDS
from vfmigrate.claims.claim_store import PLUGGED, Claim, ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import UNTAGGED
from vfmigrate.converge.observe import Host
from vfmigrate.errors import VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress

#: seconds before each round for a VF that its guest has taken while its standby carries: the guest's driver needs a
#: second or more until it has a link, and frames sent there before are lost as surely as frames for the standby after
JOIN_ROUNDS = (1.5, 1.5, 3.0, 10.0)

# For looking up the port of one VF: where that hangs, the others' are announced.
_LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class _Exit:
    """Where a VF's frames enter the bridge, and how they are sent there."""

    port: BridgePort
    method: Method


def vlans_of(claim: Claim) -> tuple[int, ...]:
    """The VLANs in which to announce a claim's MAC from its port; 0 is no tag.

    A frame without a tag leaves an access port with the port's tag. From a trunk it leaves untagged where the trunk
    carries that, and not at all where it does not: so there is one frame for each VLAN (ovs-vswitchd.conf.db(5),
    "VLAN Configuration"). On a trunk of all VLANs, these are the VLANs in which the guest was seen to send.
    """
    if claim.vlan is not None:
        return (UNTAGGED, *claim.trunks)
    if claim.is_open_trunk:
        return (UNTAGGED, *(vlan for vlan in claim.seen_in if vlan != UNTAGGED))
    return claim.trunks


def in_words(claim: Claim) -> str:
    """How the frames of a claim's announcement leave the bridge."""
    sent = [vlan or claim.vlan or UNTAGGED for vlan in vlans_of(claim)]
    tags = [vlan for vlan in sent if vlan != UNTAGGED]
    words = ["without a tag"] if UNTAGGED in sent else []
    if tags:
        words.append(f"in VLAN{'s' if len(tags) > 1 else ''} {', '.join(map(str, tags))}")
    return " and ".join(words)


class Announcer:
    """Announces the MACs of a domain, in the rounds of QEMU's own announcement."""

    def __init__(self, config: Config, host: Host, store: ClaimStore, log: Journal) -> None:
        self._config = config
        self._host = host
        self._store = store
        self._log = log
        self._stop = threading.Event()
        self._exits: dict[PciAddress, tuple[str, _Exit]] = {}

    def stop(self) -> None:
        """End the rounds that are still to come."""
        self._stop.set()

    def warm(self, domain: str) -> None:
        """Look up now what `announce` will need, so that it sends without delay when the guest resumes."""
        for claim in self._announced(domain):
            try:
                self._exits[claim.vf] = (claim.id, self._exit(claim))
            except VfmigrateError as error:
                self._log_failure(claim, error)

    def announce(self, domain: str) -> None:
        """Start announcing the domain's MACs; returns at once.

        Those of failover pairs are not among them: they are where their standby is, which QEMU announces.
        """
        claims = self._announced(domain)
        if claims:
            self._start(claims, ROUNDS)

    def _start(self, claims: list[Claim], rounds: Sequence[float]) -> None:
        def work() -> None:
            self._log.attempt("announce-failed", lambda: self._rounds(claims, rounds))

        threading.Thread(target=work, name="announce", daemon=True).start()

    def announce_vf(self, claim: Claim) -> None:
        """Start announcing the MAC of a VF that its guest has just taken, from where it is now; returns at once."""
        pool = self._config.pools.get(claim.pool)
        if claim.mac is not None and pool is not None and pool.announce:
            self._start([claim], JOIN_ROUNDS)

    def _announced(self, domain: str) -> list[Claim]:
        claims = []
        for claim in self._store.of_domain(domain):
            pool = self._config.pools.get(claim.pool)
            here = claim.state == PLUGGED and not claim.traits.port_follows_driver and claim.slot is None
            if here and claim.mac is not None and pool is not None and pool.announce:
                claims.append(claim)
        return claims

    def _exit(self, claim: Claim) -> _Exit:
        known = self._exits.pop(claim.vf, None)
        if known is not None and known[0] == claim.id:
            return known[1]
        with deadline.within(_LOOK_SECONDS):
            port = self._host.observe(claim.vf).switch_port
        if port is None or port.ofport is None or port.owner != claim.id:
            raise VfmigrateError(f"VF {claim.vf} has no working port to announce {claim.mac} from")
        enters = BridgePort(port.bridge, port.ofport)
        return _Exit(enters, method_for(self._host, enters))

    def _rounds(self, claims: list[Claim], rounds: Sequence[float]) -> None:
        exits = {}
        for claim in claims:
            try:
                exits[claim] = self._exit(claim)
            except VfmigrateError as error:
                self._log_failure(claim, error)
        for number, delay in enumerate(rounds):
            if not exits or self._stop.wait(delay):
                return
            for claim, exit_ in list(exits.items()):
                current = self._store.get(claim.vf)
                if current is None or current.id != claim.id or claim.mac is None:
                    del exits[claim]  # it left again
                    continue
                try:
                    if claim.traits.port_follows_driver and not self._host.sysfs.bus_master(claim.vf):
                        del exits[claim]  # the guest is on its standby again
                        continue
                    exit_.method.send(self._host, exit_.port, claim.mac, vlans_of(claim))
                except VfmigrateError as error:
                    self._log_failure(claim, error)
                    del exits[claim]
                    continue
                if number == 0:
                    self._log.event(
                        "announce",
                        f"guest '{claim.domain_name}': announced {claim.mac} {in_words(claim)}",
                        domain=claim.domain_name,
                        uuid=claim.domain,
                        vf=str(claim.vf),
                        mac=claim.mac,
                    )

    def _log_failure(self, claim: Claim, error: VfmigrateError) -> None:
        self._log.failed(
            "announce-failed",
            error,
            about=f"guest '{claim.domain_name}': cannot announce {claim.mac}",
            domain=claim.domain_name,
            vf=str(claim.vf),
        )
