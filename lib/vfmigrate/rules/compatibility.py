# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VF a guest gets, and what stands against it coming here. Pure: facts in, a VF or a refusal out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from vfmigrate.config.configuration import TAKE, Config, Pool
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress


@dataclass(frozen=True)
class Candidate:
    """A VF of a pool, and why it cannot be given away (None: it can)."""

    vf: PciAddress
    obstacle: Optional[str] = None


@dataclass(frozen=True)
class CardFacts:
    """What must be equal on both hosts for state to cross: the card's PSID and firmware, the VF's MSI-X table."""

    psid: Optional[str]
    firmware: Optional[str]
    msix: Optional[int]


class TooManyMigrating(Refused):
    """There are free VFs, but as many of their physical functions are on the move as may be at once."""

    def __init__(self, pool: Pool, guests: Mapping[PciAddress, Sequence[str]], most: int) -> None:
        """`guests` are those on the move, by physical function; `most` is how many VFs a card moves at a time."""
        told = "; ".join(
            f"{len(names)} {'VF' if len(names) == 1 else 'VFs'} of PF {pf} on the move already "
            f"(guests {', '.join(sorted(set(names)))})"
            for pf, names in guests.items()
        )
        super().__init__(
            f"pool '{pool.name}' can take no further VF now: {told}",
            f"a card moves {most} at a time: try again when they have arrived",
        )


def choose(pool: Pool, candidates: Sequence[Candidate]) -> PciAddress:
    """A free VF: the last one, since libvirt's hostdev networks give theirs away from the front.

    Raises Refused, naming the pool and who has its VFs.
    """
    for candidate in reversed(candidates):
        if candidate.obstacle is None:
            return candidate.vf
    if not candidates:
        pfs = ", ".join(str(pf) for pf in pool.pfs)
        raise Refused(f"pool '{pool.name}' has no VFs on this host", f"create some on {pfs} (sriov_numvfs)")
    taken = "; ".join(f"{candidate.vf} {candidate.obstacle}" for candidate in candidates)
    raise Refused(
        f"pool '{pool.name}' has no free VF on this host: {taken}",
        "move or shut down one of these guests, or add VFs",
    )


def mark_of(interface: VfInterface, config: Config) -> Optional[Mark]:
    """The mark of an interface; of one without, the mark that says what the configuration makes of it.

    Only an <interface> counts: it must be a VF, and a plain <hostdev> may be anything.
    """
    if interface.mark is None and interface.form == "interface":
        taker = next((pool.name for pool in config.pools.values() if pool.unmarked == TAKE), None)
        return Mark(mac=interface.mac, pool=taker) if taker is not None else None
    return interface.mark


def pool_for(mark: Mark, config: Config) -> Optional[Pool]:
    """The pool a mark speaks of; None when it names none. Raises Refused when this host has no such pool."""
    if mark.pool is None:
        return None
    pool = config.pools.get(mark.pool)
    if pool is None:
        there_are = f"it has {', '.join(sorted(config.pools))}" if config.pools else "it has none"
        raise Refused(
            f"the guest has a VF of pool '{mark.pool}', which this host does not have: {there_are}",
            "add the pool to vfmigrate.conf",
        )
    return pool


def port_vlan(interface: VfInterface, pool: Pool) -> tuple[Optional[int], tuple[int, ...]]:
    """Tag and trunks of an interface's port: from its mark, else the pool's.

    Raises Refused for a VLAN that the pool does not allow.
    """
    mark = interface.mark
    vlan = mark.vlan if mark is not None and mark.vlan is not None else pool.vlan
    trunks = mark.trunks if mark is not None else ()
    check_vlans((*trunks, *([vlan] if vlan is not None else [])), pool)
    return vlan, trunks if vlan is not None or trunks else pool.default_trunks


def check_vlans(vlans: Iterable[int], pool: Pool) -> None:
    """Raises Refused for a VLAN that the pool does not allow."""
    for asked in vlans:
        if not pool.allows_vlan(asked):
            raise vlan_refusal(asked, pool.name)


def vlan_refusal(vlan: int, pool: str) -> Refused:
    """What is said of a VLAN that a pool does not allow."""
    return Refused(f"VLAN {vlan} is not allowed in pool '{pool}'", f"add it to the vlans of [pool {pool}]")


def check_compatible(mark: Mark, vf: PciAddress, here: CardFacts) -> None:
    """Compare what the source told of its card with the VF chosen here.

    Raises Refused naming both sides' values. What either side does not know is not compared.
    """
    pairs = (
        ("PSID", mark.psid, here.psid, "both hosts need the same model of card"),
        ("firmware", mark.firmware, here.firmware, "bring both cards to the same firmware"),
    )
    for what, there, now, remedy in pairs:
        if there is not None and now is not None and there != now:
            raise Refused(f"the card's {what} is {there} on the source and {now} here", remedy)
    if mark.msix is not None and here.msix is not None and mark.msix != here.msix:
        raise Refused(
            f"the VF has {mark.msix} MSI-X vectors on the source, but {vf} has {here.msix}",
            "give the pool the same msix (or as many vfs) on both hosts, and run vfmigrate provision",
        )


def check_guest(domain: Domain, interfaces: Iterable[VfInterface]) -> None:
    """Raises Refused for a guest whose VFs' state QEMU will not carry."""
    if domain.viommu and any(interface.teaming is None for interface in interfaces):
        raise Refused(
            f"guest '{domain.name}' has a virtual IOMMU, with which QEMU does not migrate VFs",
            "remove <iommu> from the guest",
        )


def check_vlan_element(interface: VfInterface) -> None:
    """Raises Refused for a <vlan> that libvirt would try to set on the VF, which switchdev mode forbids."""
    if interface.vlan and interface.form == "interface":
        raise Refused(
            f"the interface with MAC {interface.mac} has a <vlan>, which a VF in switchdev mode cannot take",
            "remove it and give the VLAN in the vfmigrate metadata: the tag belongs on the Open vSwitch port",
        )
