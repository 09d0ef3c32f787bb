# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of a guest's VFs on the source, and of the pools on the destination that take them. Pure.

Applies the rules of the destination's hook to the destination's facts, with the same messages (rules.compatibility,
rules.failover_pair).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Optional

from vfmigrate.cards import registry
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.migrating_guest import GuestVf
from vfmigrate.errors import Refused, VfmigrateError
from vfmigrate.model.host_facts import HostFacts, PfFacts, PoolFacts, VfFacts
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import GENERIC_DRIVER
from vfmigrate.preflight.snapshot import (
    DESTINATION,
    PAIR,
    SOURCE,
    CheckResult,
    HostSnapshot,
    Snapshot,
    as_results,
    error,
    refusal,
    warning,
)
from vfmigrate.rules import compatibility, failover_pair, unmatched_marks
from vfmigrate.rules.compatibility import CardFacts
from vfmigrate.rules.findings import Finding
from vfmigrate.text import quoted


def results(snapshot: Snapshot) -> Iterator[CheckResult]:
    """The results for the VFs."""
    yield from leaving(snapshot)
    if snapshot.destination.facts is not None:
        yield from _destination(snapshot, snapshot.destination.facts)


def leaving(snapshot: Snapshot) -> Iterator[CheckResult]:
    """The results that do not depend on the destination: whether the VFs can leave the source at all."""
    for vf in snapshot.vfs:
        yield from as_results(PAIR, "strategy", _strategy_text(vf), _strategy(snapshot, vf))
    if snapshot.source.facts is not None:
        for vf in snapshot.vfs:
            fine = f"{vf.label} can migrate"
            yield from as_results(SOURCE, "vf", fine, _source_vf(snapshot.source.facts, snapshot.running, vf))
        yield from as_results(
            SOURCE,
            "limit",
            "fewer VFs migrate than the card's limit",
            _limit(snapshot, snapshot.source.facts),
        )


def _destination(snapshot: Snapshot, facts: HostFacts) -> Iterator[CheckResult]:
    wanted: Counter[str] = Counter(vf.pool for vf in snapshot.vfs if vf.pool is not None)
    for name, count in wanted.items():
        carried = [vf for vf in snapshot.vfs if vf.pool == name]
        pool = facts.pool(name)
        found = [] if pool is not None else [_no_pool(snapshot.destination, facts, name)]
        yield from as_results(DESTINATION, "pool", f"pool '{name}' exists", found)
        if pool is None:
            continue
        yield from as_results(
            DESTINATION, "bridge", f"bridge '{pool.bridge}' exists", _bridge(snapshot.destination, pool)
        )
        here = snapshot.source.facts.pool(name) if snapshot.source.facts is not None else None
        if here is not None and here.mtu is not None and pool.mtu is not None:
            yield from as_results(
                PAIR, "mtu", f"the MTU of pool '{name}' is large enough", _mtu(snapshot, here.mtu, pool)
            )
        yield from as_results(
            DESTINATION, "vlan", "the pool allows the VLANs", _vlans(pool, carried, snapshot)
        )
        network = pool.network
        if network is not None:
            yield from as_results(
                DESTINATION,
                "pool-network",
                f"libvirt network '{network}' is running",
                _network(snapshot, pool),
            )
        if any(pf.problem is None for pf in pool.pfs):
            free = pool.free
            yield from as_results(
                DESTINATION,
                "free-vf",
                f"pool '{name}' has {free} free VF{'s' if free != 1 else ''}",
                _free(snapshot, pool, count),
            )
            yield from as_results(
                PAIR,
                "card",
                "PSID, firmware and MSI-X count are the same",
                _same_card(snapshot, pool, carried),
            )
            yield from as_results(
                DESTINATION, "vf-ready", "the free VFs are ready", _ready(snapshot.destination, pool, carried)
            )


def _strategy_text(vf: GuestVf) -> str:
    return f"{vf.label} migrates {vf.strategy.summary} ({vf.strategy})"


def _strategy(snapshot: Snapshot, vf: GuestVf) -> Iterator[Finding]:
    domain = snapshot.guest.domain
    if vf.interface.mark is None:
        try:
            unmatched_marks.arriving(domain)
        except Refused as failure:
            yield refusal(failure)
            return
    if vf.pool is None and snapshot.source.facts is not None:
        yield error(
            f"{snapshot.source.name}: {vf.label} belongs to no pool, so vfmigrate cannot migrate it",
            f"unplug it, or add its physical function to a pool in vfmigrate.conf on {snapshot.source.name}",
        )
        return
    yield from _place(snapshot, vf)
    if vf.strategy.unplugged_first:
        yield warning(
            f"{vf.label} has strategy replug, which virsh migrate refuses",
            f"run: vfmigrate migrate {quoted(domain.name)} DESTURI",
        )
        return
    try:
        failover_pair.check_strategy(domain, vf.interface)
        compatibility.check_vlan_element(vf.interface)
        if vf.interface.teaming is not None:
            failover_pair.pair_of(domain, vf.interface)
    except VfmigrateError as failure:
        yield refusal(failure)


def _place(snapshot: Snapshot, vf: GuestVf) -> Iterator[Finding]:
    obstacle, remedy = snapshot.guest.obstacles.get(vf.interface.position, (None, ""))
    if obstacle is None:
        return
    guest = snapshot.guest.domain.name
    if vf.strategy.teamed or vf.strategy.unplugged_first:
        yield error(
            f"{vf.label} is on a {obstacle} in guest '{guest}', from which it cannot be unplugged", remedy
        )
    elif obstacle != "pcie-root":
        yield warning(f"{vf.label} is on a {obstacle} in guest '{guest}', not on PCI Express", remedy)


# -- the source


def _source_vf(facts: HostFacts, running: bool, vf: GuestVf) -> Iterator[Finding]:
    if not vf.strategy.state_travels or not running:
        return
    known = facts.vf(str(vf.interface.address))
    if known is None:
        if vf.pool is not None and not any(pf.problem for pool in facts.pools for pf in pool.pfs):
            yield error(
                f"{facts.host}: VF {vf.interface.address}, {vf.label}, is in no pool",
                f"add its physical function to the pool in vfmigrate.conf on {facts.host}",
            )
        return
    _, pf, now = known
    restart = "then restart the guest, or unplug the VF and plug it again"
    vendor = registry.known().named(pf.pci_id)
    answered = pf.support is not None and pf.support.stop_copy
    if pf.mode == "switchdev" and vendor.lacks_flag(now.migratable) and not answered:
        found = vendor.cannot_migrate(pf.address)
        yield error(f"{facts.host}: {found.text}", found.remedy)
    elif now.migratable is False:
        yield error(
            f"{facts.host}: VF {now.address} is not migratable; its driver reads that when it binds, so the running "
            "guest cannot migrate",
            "shut the guest down and start it again: vfmigrate makes the VF migratable at the start",
        )
    if now.driver == GENERIC_DRIVER and vf.interface.driver == GENERIC_DRIVER:
        yield error(
            f"{facts.host}: VF {now.address} is bound to {GENERIC_DRIVER}, which cannot migrate device state, because "
            f"the guest's XML has <driver model='{GENERIC_DRIVER}'/>",
            "remove this element with virsh edit, then shut the guest down and start it again",
        )
    elif now.driver == GENERIC_DRIVER:
        yield error(
            f"{facts.host}: VF {now.address} is bound to {GENERIC_DRIVER}, which cannot migrate device state",
            f"{vendor.install_variant}; {restart}",
        )
    elif now.bound_early:
        yield error(
            f"{facts.host}: VF {now.address} was bound before it was made migratable, so the running guest cannot "
            "migrate",
            "restart the guest, or unplug the VF and plug it again",
        )
    if now.holder is not None and now.state is None:
        yield warning(
            f"{facts.host}: VF {now.address} is {now.holder}, but has no claim",
            f"run on {facts.host}: vfmigrate reconcile",
        )


def _limit(snapshot: Snapshot, facts: HostFacts) -> Iterator[Finding]:
    """The VFs of one card that migrate at once, on the source; the destination counts its own when it reserves them."""
    addresses = [str(vf.interface.address) for vf in snapshot.vfs if vf.strategy.uses_slot]
    for pool in facts.pools:
        for pf in pool.pfs:
            here = [vf for vf in pf.vfs if vf.address in addresses]
            moving = sum(vf.moving for vf in pf.vfs if vf not in here)
            yield from _too_many(facts, pool, pf, (len(here), moving))


def _too_many(facts: HostFacts, pool: PoolFacts, pf: PfFacts, count: tuple[int, int]) -> Iterator[Finding]:
    most, (more, moving) = pool.max_migrating, count
    if more > most:
        yield error(
            f"{facts.host}: the guest has {more} VFs of PF {pf.address}, and a card migrates {most} at a time",
            "unplug some of them",
        )
    elif more and more + moving > most:
        yield warning(
            f"{facts.host}: {moving} VFs of PF {pf.address} are migrating already, and a card migrates {most} at "
            "a time",
            "wait until their migrations have ended",
        )


# -- the destination


def _no_pool(host: HostSnapshot, facts: HostFacts, name: str) -> Finding:
    pools = ", ".join(sorted(pool.name for pool in facts.pools)) or "none"
    return error(
        f"{host.name}: there is no pool '{name}', which the guest has a VF of; its pools: {pools}",
        f"add the pool to vfmigrate.conf on {host.name}",
    )


def _bridge(host: HostSnapshot, pool: PoolFacts) -> Iterator[Finding]:
    if pool.bridge_exists is False:
        yield error(
            f"{host.name}: there is no bridge '{pool.bridge}'", f"run on {host.name}: vfmigrate provision"
        )


def _mtu(snapshot: Snapshot, here: int, pool: PoolFacts) -> Iterator[Finding]:
    if pool.mtu is not None and pool.mtu < here:
        there = snapshot.destination.name
        yield error(
            f"{there}: pool '{pool.name}' has MTU {pool.mtu}, and {here} on {snapshot.source.name}: larger frames of "
            "the guest would be dropped",
            f"raise the MTU of its uplink on {there}, or set mtu in section [pool {pool.name}] on both hosts",
        )


def _network(snapshot: Snapshot, pool: PoolFacts) -> Iterator[Finding]:
    """Guests that name a VF's address do not need the pool's network; for those that name the network, see `guest`."""
    host, name = snapshot.destination, pool.network or ""
    if name not in snapshot.guest.networks and not host.libvirt.networks.get(name, False):
        state = "is stopped" if name in host.libvirt.networks else "does not exist"
        yield warning(
            f"{host.name}: libvirt network '{name}' of pool '{pool.name}' {state}",
            f"run on {host.name}: vfmigrate provision",
        )


def _vlans(pool: PoolFacts, carried: Sequence[GuestVf], snapshot: Snapshot) -> Iterator[Finding]:
    name = snapshot.destination.name
    for vf in carried:
        mark = failover_pair.with_vlan_of_standby(snapshot.guest.domain, vf.interface).mark
        if mark is None:
            continue
        for vlan in [*mark.trunks, *([mark.vlan] if mark.vlan is not None else [])]:
            if not pool.allows_vlan(vlan):
                yield error(
                    f"{name}: pool '{pool.name}' does not allow VLAN {vlan}, which {vf.label} uses",
                    f"add {vlan} to 'vlans' of [pool {pool.name}] in vfmigrate.conf on {name}",
                )
        if vf.interface.teaming is not None:
            with contextlib.suppress(Refused):  # `_strategy` reports an incomplete pair
                both = failover_pair.pair_of(snapshot.guest.domain, vf.interface)
                yield from _pair_vlan(both, mark.vlan if mark.vlan is not None else pool.vlan, mark.trunks)


def _pair_vlan(both: failover_pair.Pair, vlan: Optional[int], trunks: tuple[int, ...]) -> Iterator[Finding]:
    try:
        failover_pair.check_vlan(both, vlan, trunks)
    except Refused as failure:
        yield refusal(failure)


def _free(snapshot: Snapshot, pool: PoolFacts, count: int) -> Iterator[Finding]:
    host = snapshot.destination
    mine = snapshot.guest.domain.uuid
    free = sum(_is_free(vf, mine) for pf in pool.pfs for vf in pf.vfs)
    if free < count:
        taken = "; ".join(
            f"{vf.address} {vf.holder}" for pf in pool.pfs for vf in pf.vfs if not _is_free(vf, mine)
        )
        there = f"has {free} free VF{'s' if free != 1 else ''}" if free else "has no free VF"
        yield error(
            f"{host.name}: pool '{pool.name}' {there}, and the guest needs {count}"
            + (f": {taken}" if taken else ""),
            "migrate one of these guests to another host, or raise 'vfs' of the pool",
        )
        return
    yield from _spread(snapshot, pool)
    vfio = sum(vf.strategy.uses_slot for vf in snapshot.vfs if vf.pool == pool.name)
    room = sum(
        min(sum(_is_free(vf, mine) for vf in pf.vfs), max(0, pool.max_migrating - pf.moving))
        for pf in pool.pfs
    )
    if vfio > room:
        moving = sum(pf.moving for pf in pool.pfs)
        yield warning(
            f"{host.name}: {moving} VFs of pool '{pool.name}' are migrating already, and a card migrates "
            f"{pool.max_migrating} at a time",
            "wait until their migrations have ended",
        )


def _spread(snapshot: Snapshot, pool: PoolFacts) -> Iterator[Finding]:
    """Whether VFs that are on several PFs now can be on several PFs there."""
    facts = snapshot.source.facts
    known = [
        facts.vf(str(vf.interface.address)) if facts is not None and vf.pool == pool.name else None
        for vf in snapshot.vfs
    ]
    pfs = {each[1].address for each in known if each is not None}
    mine = snapshot.guest.domain.uuid
    room = sum(any(_is_free(vf, mine) for vf in pf.vfs) for pf in pool.pfs)
    if room < min(len(pfs), 2):
        yield warning(
            f"{snapshot.destination.name}: only one PF of pool '{pool.name}' has free VFs, and the guest's are on "
            f"{len(pfs)} PFs: the loss of one port would cut all of them",
            "free a VF of another PF first, or add another PF to the pool",
        )


def _is_free(vf: VfFacts, uuid: str) -> bool:
    """Whether the guest can take it: free, or reserved for this guest and not plugged yet."""
    return vf.holder is None or (vf.guest == uuid and vf.state != "plugged")


def _same_card(snapshot: Snapshot, pool: PoolFacts, carried: Sequence[GuestVf]) -> Iterator[Finding]:
    """Whether a free VF can take each device state."""
    mine = snapshot.guest.domain.uuid
    for vf in carried:
        mark = _mark(snapshot, vf) if vf.strategy.state_travels else None
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
            name = snapshot.destination.name
            problem = unfit.problem.replace(" on the destination", f" on {name}")
            yield error(
                f"{name}: no free VF of pool '{pool.name}' can take the device state of {vf.label}: {problem}",
                unfit.remedy,
            )


def _mark(snapshot: Snapshot, vf: GuestVf) -> Optional[Mark]:
    """What the device state requires: the present card's values, else those in the metadata."""
    known = snapshot.source.facts.vf(str(vf.interface.address)) if snapshot.source.facts else None
    if known is None:
        return vf.interface.mark
    _, pf, now = known
    return Mark(mac=vf.interface.wanted_mac, psid=pf.psid, firmware=pf.firmware, msix=now.msix)


def _ready(host: HostSnapshot, pool: PoolFacts, carried: Sequence[GuestVf]) -> Iterator[Finding]:
    if not any(vf.strategy.state_travels for vf in carried):
        return
    for pf in pool.pfs:
        if pf.variant_driver == GENERIC_DRIVER or pf.mode != "switchdev":
            continue  # the findings of the card say so
        for vf in pf.vfs:
            if vf.holder is None and vf.migratable is False:
                bound = f", and was bound to {vf.driver} before" if vf.vfio else ""
                yield warning(
                    f"{host.name}: free VF {vf.address} is not migratable{bound}; it is made migratable when a guest "
                    "takes it",
                    f"run on {host.name}: vfmigrate reconcile",
                )
            elif vf.holder is None and vf.bound_early:
                yield error(
                    f"{host.name}: free VF {vf.address} was bound to {vf.driver} before it was made migratable",
                    f"run on {host.name}: echo {vf.address} > /sys/bus/pci/drivers/{vf.driver}/unbind",
                )
