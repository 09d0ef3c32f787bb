# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's interfaces that have, or want, a VF of our pools on this host: which pool, which VLAN, which claim."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Optional

from vfmigrate.claims.claim_store import Claim, ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.observe import Host
from vfmigrate.domain import domain_xml
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import compatibility, failover_pair, unmatched_marks
from vfmigrate.text import quoted


@dataclass(frozen=True)
class Placement:
    """An interface of a guest, and what it needs here."""

    interface: VfInterface
    pool: Pool
    vlan: Optional[int]
    trunks: tuple[int, ...]
    #: it comes from a file, saved on this host or another
    restored: bool = False

    @property
    def moves(self) -> bool:
        """Whether the VF migrates with its state."""
        return self.interface.teaming is None

    @property
    def choice(self) -> Optional[PciAddress]:
        """The VF of this host that whoever migrates the guest has put into its XML; None when nobody has chosen.

        The source has written the address of its VF into the mark: another address in the XML is a choice.
        """
        address, mark = self.interface.address, self.interface.mark
        if mark is None or mark.address in (None, address):
            return None
        return address

    @property
    def source_pf(self) -> Optional[PciAddress]:
        """The PF of its VF on the host it comes from; None when the metadata does not name it."""
        return self.interface.mark.pf if self.interface.mark is not None else None

    @property
    def origin(self) -> Optional[PciAddress]:
        """The address of its VF on the host it comes from; None for a guest that is restored."""
        if self.restored:
            return None
        mark = self.interface.mark
        return mark.address if self.choice is not None and mark is not None else self.interface.address


def place(domain: Domain, interface: VfInterface, pool: Pool) -> Placement:
    """What an interface needs where its VF is one of this pool. Raises Refused for a VLAN that the pool has not."""
    with_vlan = failover_pair.with_vlan_of_standby(domain, interface)
    return Placement(interface, pool, *compatibility.port_vlan(with_vlan, pool))


class Placements:
    """Finds the placements of domains by the configuration and by what is on the host."""

    def __init__(self, config: Config, host: Host, store: ClaimStore) -> None:
        self._config = config
        self._host = host
        self._store = store

    def arriving(self, domain: Domain) -> list[Placement]:
        """Those of a guest that comes from elsewhere, by what its metadata says. Raises Refused or InputError."""
        placements = []
        found = unmatched_marks.arriving(domain)
        for one in domain.interfaces:
            interface = replace(one, mark=found.get(one.position, one.mark))
            interface = replace(interface, mark=compatibility.mark_of(interface, self._config))
            pool = (
                compatibility.pool_for(interface.mark, self._config) if interface.mark is not None else None
            )
            if pool is not None:
                compatibility.check_vlan_element(interface)
                placements.append(place(domain, interface, pool))
        return placements

    def named(self, domain: Domain) -> Iterator[tuple[PciAddress, Placement]]:
        """Those whose XML names a VF of this host, with the VF. Raises Refused where it cannot work here."""
        pools = {each.position: self.pool_here(domain, each) for each in domain.interfaces}
        for interface in self.with_marks(domain, pools):
            pool, mark = pools[interface.position], interface.mark
            if interface.address is None:
                continue
            name = pool.name if pool is not None else None
            if mark is not None and mark.pool is not None and mark.pool != name:
                raise unmatched_marks.wrong_pool(domain, interface, mark, name)
            if pool is not None:
                compatibility.check_vlan_element(interface)
                placement = place(domain, interface, pool)
                self.check_pair(domain, placement)
                yield interface.address, placement

    def with_marks(self, domain: Domain, pools: Mapping[int, Optional[Pool]]) -> list[VfInterface]:
        """The interfaces of a domain that name VFs of this host, with the marks that elimination finds.

        `pools` are those of its interfaces, by position. What the domain has claimed already keeps what its claim says.
        Raises Refused where nothing says which mark belongs to which VF.
        """
        claims = self._store.of_domain(domain.uuid)
        claimed = {claim.vf for claim in claims}
        open_ones = {
            each.position: pools[each.position]
            for each in domain.interfaces
            if each.position in pools and each.address is not None and each.address not in claimed
            if pools[each.position] is not None or self._host.sysfs.physfn(each.address) is not None
        }
        waiting = [claim.mac for claim in claims if claim.slot is not None]
        found = unmatched_marks.here(domain, open_ones, waiting)
        return [
            replace(each, mark=found.get(each.position, each.mark))
            for each in domain.interfaces
            if each.position in pools
        ]

    def pool_here(self, domain: Domain, interface: VfInterface) -> Optional[Pool]:
        """The pool of the VF that an interface names, or None when it is in no pool.

        Raises Refused for a VF of a pool that does not exist.
        """
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

    def has_pool(self, name: Optional[str]) -> bool:
        """Whether this host has a pool of this name."""
        return name in self._config.pools

    def check_pair(self, domain: Domain, placement: Placement) -> None:
        """Raises Refused when the VF is half of a failover pair that cannot work here."""
        if placement.interface.teaming != "transient":
            return
        both = failover_pair.pair_of(domain, placement.interface)
        by_default = placement.vlan is None and placement.trunks == placement.pool.default_trunks
        failover_pair.check_vlan(both, placement.vlan, () if by_default else placement.trunks)
        standby = both.standby
        if standby.kind != "bridge" or standby.source is None:
            return  # libvirt itself refuses a guest whose network is missing, and does so as early
        if standby.openvswitch:
            there, remedy = (
                self._host.ovs.bridge_exists(standby.source),
                f"ovs-vsctl add-br {quoted(standby.source)}",
            )
        else:
            there = self._host.links.find(standby.source) is not None
            remedy = f"ip link add {quoted(standby.source)} type bridge"
        if not there:
            raise Refused(
                f"there is no bridge '{standby.source}' on this host, which guest '{domain.name}' needs "
                f"while its VF {both.vf.wanted_mac or ''} is away",
                f"run: {remedy}",
            )

    def claim(self, domain: Domain, placement: Placement, vf: PciAddress, state: str) -> Claim:
        """The claim for a VF that is given to an interface; it expires, as long as the guest does not run."""
        interface = placement.interface
        return Claim(
            vf=vf,
            pool=placement.pool.name,
            domain=domain.uuid,
            domain_name=domain.name,
            state=state,
            since=0.0,
            expires=self._store.clock() + self._config.claim_timeout,
            mac=interface.wanted_mac,
            vlan=placement.vlan,
            trunks=placement.trunks,
            set_mac=interface.form == "hostdev" and interface.wanted_mac is not None,
            managed=interface.managed,
            strategy=interface.strategy.name,
            twin=domain_xml.twin(domain, interface),
            seen_in=interface.mark.seen_in if interface.mark is not None else (),
        )
