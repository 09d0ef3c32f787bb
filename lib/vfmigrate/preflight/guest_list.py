# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests of a host that have VFs, and whether they can leave it, whatever the destination. Pure.

The rules are those of the preflight checks that concern the source only.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

from vfmigrate.domain import migrating_guest
from vfmigrate.domain.markup import Markup
from vfmigrate.domain.migrating_guest import GuestVf, MigratingGuest
from vfmigrate.model.host_facts import HostFacts, PfFacts, PoolFacts
from vfmigrate.model.libvirt_facts import DefinedGuest
from vfmigrate.preflight.checks import guest as guest_checks
from vfmigrate.preflight.checks import vf as vf_checks
from vfmigrate.preflight.snapshot import DESTINATION, OK, CheckResult, HostSnapshot, Snapshot
from vfmigrate.rules.findings import ERROR


@dataclass(frozen=True)
class ListedVf:
    """One VF of a guest; None for what is not known."""

    mac: Optional[str]
    #: its address on this host; None for a guest that does not run and gets its VF from a network
    vf: Optional[str]
    pf: Optional[str]
    pool: Optional[str]
    #: the tag of its port: that of its mark, else the pool's
    vlan: Optional[int]
    strategy: str


@dataclass(frozen=True)
class ListedGuest:
    """One guest with VFs."""

    name: str
    uuid: str
    #: as virsh list shows it
    state: str
    vfs: tuple[ListedVf, ...]
    #: None for a guest that does not run, and while the daemon does not answer
    can_leave: Optional[bool]
    #: what keeps it here, and what else is to be known before it leaves
    problems: tuple[CheckResult, ...] = ()

    def plain(self) -> dict[str, Any]:
        """For programs."""
        problems = [each.problem() for each in self.problems]
        return {**vars(self), "vfs": [asdict(vf) for vf in self.vfs], "problems": problems}


def listed(
    defined: DefinedGuest, source: HostSnapshot, hostdev_networks: Collection[str]
) -> Optional[ListedGuest]:
    """One guest; None for one without VFs. `hostdev_networks` are the libvirt networks of VFs.

    Raises InputError for XML that cannot be read.
    """
    guest = migrating_guest.read(defined.xml, defined.xml)
    vfs = _vfs(guest, defined.xml, source.facts, hostdev_networks)
    if not vfs:
        return None
    # The rules that are asked do not look at the destination; some of their remedies name it.
    there = HostSnapshot(DESTINATION, replace(source.libvirt, hostname="the destination"))
    snapshot = Snapshot(guest, running=defined.running, source=source, destination=there, vfs=vfs)
    found = [*guest_checks.leaving(snapshot), *vf_checks.leaving(snapshot)] if defined.running else []
    problems = tuple(dict.fromkeys(each for each in found if each.severity != OK))
    blocked = any(each.severity == ERROR for each in problems)
    unknown = not defined.running or (source.facts is None and not blocked)
    return ListedGuest(
        name=guest.domain.name,
        uuid=guest.domain.uuid,
        state=defined.state,
        vfs=tuple(_listed_vf(vf, source.facts) for vf in vfs),
        can_leave=None if unknown else not blocked,
        problems=problems,
    )


def _vfs(
    guest: MigratingGuest, xml: str, facts: Optional[HostFacts], hostdev_networks: Collection[str]
) -> tuple[GuestVf, ...]:
    """The VFs; an interface of a pool's network is one even before the guest has run for the first time."""
    found = list(migrating_guest.vfs(guest, facts))
    known = {vf.interface.position for vf in found}
    pools = {pool.network: pool.name for pool in facts.pools} if facts is not None else {}
    devices = list(Markup(xml).root.all("devices/*"))
    for interface in guest.domain.interfaces:
        network = devices[interface.position].get("source", "network")
        if interface.position not in known and network in hostdev_networks:
            found.append(GuestVf(interface, pools.get(network), interface.strategy))
    return tuple(found)


def _listed_vf(vf: GuestVf, facts: Optional[HostFacts]) -> ListedVf:
    interface = vf.interface
    pool, pf = _place(vf, facts)
    vlan = interface.mark.vlan if interface.mark is not None else None
    return ListedVf(
        mac=interface.wanted_mac,
        vf=str(interface.address) if interface.address is not None else None,
        pf=pf.address if pf is not None else None,
        pool=vf.pool,
        vlan=vlan if vlan is not None or pool is None else pool.vlan,
        strategy=str(vf.strategy),
    )


def _place(vf: GuestVf, facts: Optional[HostFacts]) -> tuple[Optional[PoolFacts], Optional[PfFacts]]:
    """The pool and the PF of a VF."""
    if facts is None:
        return None, None
    known = facts.vf(str(vf.interface.address)) if vf.interface.address is not None else None
    pool = facts.pool(vf.pool) if vf.pool is not None else None
    return pool, known[1] if known is not None else None
