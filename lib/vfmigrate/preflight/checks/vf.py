# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be true of a guest's VFs where they are, and of the pools that are to take them. Pure.

Asks the same of the destination's facts as its hook will of the host itself, with the same words where there is one
(choice.py, pair.py).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Optional

from vfmigrate.cards import registry
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.migrating_guest import FAILOVER, VFIO, CarriedVf
from vfmigrate.errors import Refused, VfmigrateError
from vfmigrate.model.host_facts import HostFacts, PfFacts, PoolFacts, VfFacts
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import GENERIC_DRIVER
from vfmigrate.preflight.snapshot import (
    DESTINATION,
    PAIR,
    SOURCE,
    Line,
    Prospect,
    Side,
    error,
    refusal,
    settled,
    warning,
)
from vfmigrate.rules import compatibility, failover_pair
from vfmigrate.rules.compatibility import CardFacts
from vfmigrate.rules.findings import Finding


def lines(prospect: Prospect) -> Iterator[Line]:
    """All there is to say of the VFs."""
    for vf in prospect.vfs:
        yield from settled(PAIR, "strategy", _told_strategy(vf), _strategy(prospect, vf))
    if prospect.source.facts is not None:
        for vf in prospect.vfs:
            fine = f"{vf.told} is ready to leave"
            yield from settled(SOURCE, "vf", fine, _leaving(prospect.source.facts, prospect.running, vf))
        yield from settled(
            SOURCE, "limit", "no more VFs move than a card can", _limit(prospect, prospect.source.facts)
        )
    if prospect.destination.facts is not None:
        yield from _destination(prospect, prospect.destination.facts)


def _destination(prospect: Prospect, facts: HostFacts) -> Iterator[Line]:
    wanted: Counter[str] = Counter(vf.pool for vf in prospect.vfs if vf.pool is not None)
    for name, count in wanted.items():
        carried = [vf for vf in prospect.vfs if vf.pool == name]
        pool = facts.pool(name)
        found = [] if pool is not None else [_no_pool(prospect.destination, facts, name)]
        yield from settled(DESTINATION, "pool", f"there is a pool '{name}'", found)
        if pool is None:
            continue
        yield from settled(
            DESTINATION, "bridge", f"there is the bridge '{pool.bridge}'", _bridge(prospect.destination, pool)
        )
        yield from settled(DESTINATION, "vlan", "the pool allows the VLANs", _vlans(pool, carried, prospect))
        network = pool.network
        if network is not None:
            yield from settled(
                DESTINATION, "pool-network", f"libvirt network '{network}' runs", _network(prospect, pool)
            )
        if any(pf.problem is None for pf in pool.pfs):
            free = pool.free
            yield from settled(
                DESTINATION,
                "free-vf",
                f"pool '{name}' has {free} free VFs",
                _free(prospect, pool, count),
            )
            yield from settled(
                PAIR,
                "card",
                "PSID, firmware and MSI-X count are the same",
                _same_card(prospect, pool, carried),
            )
            yield from settled(
                DESTINATION, "vf-ready", "its free VFs are ready", _ready(prospect.destination, pool, carried)
            )


def _told_strategy(vf: CarriedVf) -> str:
    how = {
        VFIO: "its state travels",
        FAILOVER: "its standby carries on",
    }.get(vf.strategy, "it is unplugged, and another plugged in")
    return f"{vf.told} crosses by {vf.strategy}: {how}"


def _strategy(prospect: Prospect, vf: CarriedVf) -> Iterator[Finding]:
    domain = prospect.guest.domain
    if vf.pool is None and prospect.source.facts is not None:
        yield error(
            f"{vf.told} is of no pool of {prospect.source.name}: vfmigrate does not carry it",
            "unplug it first, or add its physical function to a pool in vfmigrate.conf",
        )
        return
    if vf.strategy == "replug":
        yield warning(
            f"{vf.told} has strategy replug, with which a plain virsh migrate is refused",
            f"run: vfmigrate migrate {domain.name}",
        )
        return
    try:
        failover_pair.check_crosses(domain, vf.interface)
        compatibility.check_vlan_element(vf.interface)
        if vf.interface.teaming is not None:
            failover_pair.pair_of(domain, vf.interface)
    except VfmigrateError as failure:
        yield refusal(failure)


# -- where the guest is


def _leaving(facts: HostFacts, running: bool, vf: CarriedVf) -> Iterator[Finding]:
    if vf.strategy != VFIO or not running:
        return
    known = facts.vf(str(vf.interface.address))
    if known is None:
        if vf.pool is not None and not any(pf.problem for pool in facts.pools for pf in pool.pfs):
            yield error(
                f"{vf.told}: there is no VF {vf.interface.address} in the pools of {facts.host}",
                "add its physical function to the pool in vfmigrate.conf",
            )
        return
    _, pf, now = known
    restart = "then restart the guest, or unplug the VF and plug it in again"
    vendor = registry.known().named(pf.pci_id)
    if pf.mode == "switchdev" and vendor.lacks_flag(now.migratable):
        yield vendor.cannot_migrate(pf.address, f" on {facts.host}")
    elif now.migratable is False:
        yield error(
            f"VF {now.address} on {facts.host} is not migratable, and its driver reads that when it binds: the "
            "running guest cannot migrate",
            f"shut the guest down; vfmigrate makes the VF migratable for its next start ({restart})",
        )
    if now.driver == GENERIC_DRIVER:
        yield error(
            f"VF {now.address} on {facts.host} is bound to {GENERIC_DRIVER}, which carries no state",
            f"{vendor.install_variant}; {restart}",
        )
    elif now.bound_early:
        yield error(
            f"VF {now.address} on {facts.host} was bound before it was made migratable: the running guest cannot "
            "migrate",
            "restart the guest, or unplug the VF and plug it in again",
        )
    if now.holder is not None and now.state is None:
        yield warning(
            f"VF {now.address} on {facts.host} is {now.holder}, without a claim",
            f"run on {facts.host}: vfmigrate reconcile",
        )


def _limit(prospect: Prospect, facts: HostFacts) -> Iterator[Finding]:
    """How many VFs of one card move at a time, here; the destination's are counted as it gives them."""
    addresses = [str(vf.interface.address) for vf in prospect.vfs if vf.strategy == VFIO]
    for pool in facts.pools:
        for pf in pool.pfs:
            here = [vf for vf in pf.vfs if vf.address in addresses]
            moving = sum(vf.moving for vf in pf.vfs if vf not in here)
            yield from _too_many(facts, pool, pf, (len(here), moving))


def _too_many(facts: HostFacts, pool: PoolFacts, pf: PfFacts, count: tuple[int, int]) -> Iterator[Finding]:
    most, (more, moving) = pool.max_migrating, count
    if more > most:
        yield error(
            f"the guest has {more} VFs of PF {pf.address} on {facts.host}, and a card moves {most} at a time",
            "unplug some of them",
        )
    elif more and more + moving > most:
        yield warning(
            f"{moving} VFs of PF {pf.address} on {facts.host} are on the move already, and a card moves {most} at "
            "a time",
            "wait until they have arrived",
        )


# -- where it is to go


def _no_pool(side: Side, facts: HostFacts, name: str) -> Finding:
    there_are = ", ".join(sorted(pool.name for pool in facts.pools)) or "none"
    return error(
        f"the guest has a VF of pool '{name}', which {side.name} does not have; its pools: {there_are}",
        f"add the pool to vfmigrate.conf on {side.name}",
    )


def _bridge(side: Side, pool: PoolFacts) -> Iterator[Finding]:
    if pool.bridge_exists is False:
        yield error(
            f"there is no bridge '{pool.bridge}' on {side.name}", f"run on {side.name}: vfmigrate provision"
        )


def _network(prospect: Prospect, pool: PoolFacts) -> Iterator[Finding]:
    """Guests that name a VF's address do without the pool's network; those that name it are told of it elsewhere."""
    side, name = prospect.destination, pool.network or ""
    if name not in prospect.guest.networks and not side.libvirt.networks.get(name, False):
        state = "is stopped" if name in side.libvirt.networks else "does not exist"
        yield warning(
            f"libvirt network '{name}' of pool '{pool.name}' {state} on {side.name}",
            f"run on {side.name}: vfmigrate provision",
        )


def _vlans(pool: PoolFacts, carried: Sequence[CarriedVf], prospect: Prospect) -> Iterator[Finding]:
    name = prospect.destination.name
    for vf in carried:
        told = failover_pair.with_vlan_of_standby(prospect.guest.domain, vf.interface)
        mark = told.mark
        if mark is None:
            continue
        asked = [*mark.trunks, *([mark.vlan] if mark.vlan is not None else [])]
        for vlan in asked:
            if not pool.allows_vlan(vlan):
                yield error(
                    f"{vf.told} is in VLAN {vlan}, which pool '{pool.name}' does not allow on {name}",
                    f"add it to the vlans of [pool {pool.name}] on {name}",
                )
        if vf.interface.teaming is not None:
            with contextlib.suppress(Refused):  # a pair that is none is told as such
                both = failover_pair.pair_of(prospect.guest.domain, vf.interface)
                yield from _pair_vlan(both, mark.vlan if mark.vlan is not None else pool.vlan, mark.trunks)


def _pair_vlan(both: failover_pair.Pair, vlan: Optional[int], trunks: tuple[int, ...]) -> Iterator[Finding]:
    try:
        failover_pair.check_vlan(both, vlan, trunks)
    except Refused as failure:
        yield refusal(failure)


def _free(prospect: Prospect, pool: PoolFacts, count: int) -> Iterator[Finding]:
    side = prospect.destination
    mine = prospect.guest.domain.uuid
    free = sum(_is_free(vf, mine) for pf in pool.pfs for vf in pf.vfs)
    if free < count:
        taken = "; ".join(
            f"{vf.address} {vf.holder}" for pf in pool.pfs for vf in pf.vfs if not _is_free(vf, mine)
        )
        there = f"has {free} free VF{'s' if free != 1 else ''}" if free else "has no free VF"
        yield error(
            f"pool '{pool.name}' {there} on {side.name}, and the guest needs {count}"
            + (f": {taken}" if taken else ""),
            "move or shut down one of these guests, or add VFs",
        )
        return
    vfio = sum(vf.strategy == VFIO for vf in prospect.vfs if vf.pool == pool.name)
    room = sum(
        min(sum(_is_free(vf, mine) for vf in pf.vfs), max(0, pool.max_migrating - pf.moving))
        for pf in pool.pfs
    )
    if vfio > room:
        moving = sum(pf.moving for pf in pool.pfs)
        yield warning(
            f"{moving} VFs of pool '{pool.name}' are on the move on {side.name} already, and a card moves "
            f"{pool.max_migrating} at a time",
            "wait until they have arrived",
        )


def _is_free(vf: VfFacts, uuid: str) -> bool:
    """Also a VF that was promised to this guest, and that it does not have yet."""
    return vf.holder is None or (vf.guest == uuid and vf.state != "plugged")


def _same_card(prospect: Prospect, pool: PoolFacts, carried: Sequence[CarriedVf]) -> Iterator[Finding]:
    """Whether one of the free VFs can take each state."""
    mine = prospect.guest.domain.uuid
    for vf in carried:
        mark = _mark(prospect, vf) if vf.strategy == VFIO else None
        if mark is None:
            continue
        unfit: Optional[Refused] = None
        fits = False
        for pf in pool.pfs:
            for each in pf.vfs:
                here = CardFacts(pf.psid, pf.firmware, each.msix)
                try:
                    compatibility.check_compatible(mark, PciAddress.parse(each.address), here)
                    fits = fits or _is_free(each, mine)
                except Refused as failure:
                    unfit = unfit or failure
        if unfit is not None and not fits:
            told = unfit.problem.replace(" here", f" on {prospect.destination.name}")
            yield error(f"{vf.told} fits no free VF of pool '{pool.name}': {told}", unfit.remedy)


def _mark(prospect: Prospect, vf: CarriedVf) -> Optional[Mark]:
    """What the state would have to fit: the card as it is now, else what the metadata says of it."""
    known = prospect.source.facts.vf(str(vf.interface.address)) if prospect.source.facts else None
    if known is None:
        return vf.interface.mark
    _, pf, now = known
    return Mark(mac=vf.interface.wanted_mac, psid=pf.psid, firmware=pf.firmware, msix=now.msix)


def _ready(side: Side, pool: PoolFacts, carried: Sequence[CarriedVf]) -> Iterator[Finding]:
    if not any(vf.strategy == VFIO for vf in carried):
        return
    for pf in pool.pfs:
        if pf.variant_driver == GENERIC_DRIVER or pf.mode != "switchdev":
            continue  # the cards' own findings tell
        for vf in pf.vfs:
            if vf.holder is None and vf.migratable is False:
                bound = f", and was bound to {vf.driver} without that" if vf.vfio else ""
                yield warning(
                    f"the free VF {vf.address} on {side.name} is not migratable{bound}; it is made so when a guest "
                    "comes",
                    f"run on {side.name}: vfmigrate reconcile",
                )
            elif vf.holder is None and vf.bound_early:
                yield error(
                    f"the free VF {vf.address} on {side.name} was bound to {vf.driver} before it was made migratable",
                    f"run on {side.name}: echo {vf.address} > /sys/bus/pci/drivers/{vf.driver}/unbind",
                )
