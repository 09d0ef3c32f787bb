# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VF a guest gets, and what would block its migration to this host. Pure: facts in, a VF or a refusal out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import TAKE, Pool
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress


@dataclass(frozen=True)
class Candidate:
    """A VF of a pool, and why no guest can get it; None when it is free."""

    vf: PciAddress
    obstacle: Optional[str] = None


@dataclass(frozen=True)
class CardFacts:
    """What must be equal on both hosts for strategy vfio: PSID and firmware of the card, MSI-X count of the VF."""

    psid: Optional[str]
    firmware: Optional[str]
    msix: Optional[int]


class TooManyMigrating(Refused):
    """VFs are free, but as many VFs of their physical functions are migrating as can at the same time."""

    def __init__(self, pool: Pool, guests: Mapping[PciAddress, Sequence[str]], most: int) -> None:
        """`guests` are those that are migrating, by physical function; `most` is how many a card migrates at a time."""
        migrating = "; ".join(
            f"{len(names)} {'VF' if len(names) == 1 else 'VFs'} of PF {pf} already migrating "
            f"(guests {', '.join(sorted(set(names)))})"
            for pf, names in guests.items()
        )
        super().__init__(
            f"no more VFs of pool '{pool.name}' can migrate now: {migrating}",
            f"the card migrates {most} at a time; try again when these have finished",
        )


def choose(pool: Pool, candidates: Sequence[Candidate]) -> PciAddress:
    """A free VF: the last one, because libvirt's hostdev networks use the first one.

    Raises Refused, with the pool and the guests that have its VFs.
    """
    for candidate in reversed(candidates):
        if candidate.obstacle is None:
            return candidate.vf
    if not candidates:
        pfs = ", ".join(str(pf) for pf in pool.pfs)
        raise Refused(
            f"pool '{pool.name}' has no VFs on this host",
            f"set vfs in [pool {pool.name}] (PFs: {pfs}) and run: vfmigrate provision",
        )
    taken = "; ".join(f"{candidate.vf} {candidate.obstacle}" for candidate in candidates)
    raise Refused(
        f"pool '{pool.name}' has no free VF on this host: {taken}",
        "migrate one of these guests to another host, or add VFs",
    )


def mark_of(interface: VfInterface, config: Config) -> Optional[Mark]:
    """The mark of an interface; for one without, the mark that follows from `unmarked` in the configuration.

    That applies to an <interface> only: it is a VF, while a plain <hostdev> can be any device.
    """
    if interface.mark is None and interface.form == "interface":
        taker = next((pool.name for pool in config.pools.values() if pool.unmarked == TAKE), None)
        return Mark(mac=interface.mac, pool=taker) if taker is not None else None
    return interface.mark


def pool_for(mark: Mark, config: Config) -> Optional[Pool]:
    """The pool that a mark names; None when it names none. Raises Refused when this host has no such pool."""
    if mark.pool is None:
        return None
    pool = config.pools.get(mark.pool)
    if pool is None:
        pools = f"its pools are {', '.join(sorted(config.pools))}" if config.pools else "it has no pools"
        raise Refused(
            f"the guest has a VF of pool '{mark.pool}', which this host does not have: {pools}",
            "add the pool to /etc/vfmigrate/vfmigrate.conf of this host, or migrate to another host",
        )
    return pool


def port_vlan(interface: VfInterface, pool: Pool) -> tuple[Optional[int], tuple[int, ...]]:
    """VLAN tag and trunks of the port of an interface: from its mark, else from the pool.

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
    """The refusal of a VLAN that a pool does not allow."""
    return Refused(f"VLAN {vlan} is not allowed in pool '{pool}'", f"add it to the vlans of [pool {pool}]")


def check_compatible(mark: Mark, vf: PciAddress, here: CardFacts) -> None:
    """Compare the card of the source with that of the VF chosen on this host.

    Raises Refused with the values of both hosts. A value that one of them does not know is not compared.
    """
    pairs = (
        ("PSID", mark.psid, here.psid, "use hosts with the same model of card"),
        ("firmware", mark.firmware, here.firmware, "install the same firmware on both cards"),
    )
    for what, there, now, remedy in pairs:
        if there is not None and now is not None and there != now:
            raise Refused(f"the card's {what} is {there} on the source and {now} on the destination", remedy)
    if mark.msix is not None and here.msix is not None and mark.msix != here.msix:
        raise Refused(
            f"the VF has {mark.msix} MSI-X vectors on the source, but {vf} on the destination has {here.msix}",
            "set the same msix (or the same vfs) for the pool on both hosts, and run: vfmigrate provision",
        )


def check_guest(domain: Domain, interfaces: Iterable[VfInterface]) -> None:
    """Raises Refused for a guest whose VFs QEMU does not migrate."""
    if domain.viommu and any(interface.teaming is None for interface in interfaces):
        raise Refused(
            f"guest '{domain.name}' has a virtual IOMMU, with which QEMU does not migrate VFs",
            "remove <iommu> from the guest",
        )


def check_vlan_element(interface: VfInterface) -> None:
    """Raises Refused for a <vlan>: libvirt would set it on the VF, which fails in switchdev mode."""
    if interface.vlan and interface.form == "interface":
        raise Refused(
            f"the interface with MAC {interface.mac} has a <vlan>, which a VF in switchdev mode does not support",
            "remove it, and name the VLAN in the vfmigrate metadata: the Open vSwitch port gets the tag",
        )
