# SPDX-License-Identifier: GPL-2.0-or-later
"""How the VFs of one guest are spread over the physical functions of a pool. Pure.

A guest bonds VFs of two PFs so that it survives the loss of a port, a cable or a switch. VFs that were on different PFs
are on different PFs again after a migration, as long as there is a free VF; the NUMA node of the guest's memory is the
second wish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Optional

from vfmigrate.model.pci import PciAddress


def interleaved(of_pfs: Iterable[Sequence[PciAddress]]) -> list[PciAddress]:
    """The VFs of several PFs, one of each in turn.

    libvirt gives guests the first free VF of a network: in this order, a guest with two VFs has them on two PFs.
    """
    return [vf for row in zip_longest(*of_pfs) for vf in row if vf is not None]


@dataclass(frozen=True)
class Sibling:
    """Another VF of the same guest: its PF on this host, and its PF where the guest comes from, if that is known."""

    here: PciAddress
    source: Optional[PciAddress] = None


@dataclass(frozen=True)
class Wish:
    """What is wished for a VF that is to be chosen."""

    #: its PF where the guest comes from
    source: Optional[PciAddress] = None
    #: the guest's other VFs of the pool that are already chosen
    siblings: Sequence[Sibling] = ()
    #: the PF of each of its VFs of the pool where it comes from, this one's included
    sources: Sequence[Optional[PciAddress]] = ()
    #: the NUMA nodes of the guest's memory; empty where its definition does not say
    nodes: frozenset[int] = frozenset()
    #: the NUMA nodes of the PFs
    node_of: Mapping[PciAddress, Optional[int]] = field(default_factory=dict)

    @property
    def is_spread(self) -> bool:
        """Whether the guest comes with VFs of several PFs."""
        return len({source for source in self.sources if source is not None}) > 1

    def conflicts(self, pf: PciAddress) -> int:
        """How many VFs that were on another PF than this one would be on the same PF here."""
        if not self.is_spread or self.source is None:
            return 0
        return sum(each.here == pf and each.source not in (None, self.source) for each in self.siblings)

    def cost(self, pf: PciAddress, free: int) -> tuple[int, ...]:
        """The smaller, the better the PF suits, of which this many VFs are free."""
        load = sum(each.here == pf for each in self.siblings)
        node = self.node_of.get(pf)
        far = int(bool(self.nodes) and node is not None and node not in self.nodes)
        if not self.is_spread or self.source is None:
            return (load, far)
        # VFs of one PF stay together, as far as they find room: the others then find a PF of their own
        apart = sum(each.source == self.source and each.here != pf for each in self.siblings)
        together = sum(source == self.source for source in self.sources) - sum(
            each.source == self.source for each in self.siblings
        )
        return (self.conflicts(pf), apart, int(free < together), load, far)


def lost(siblings: Sequence[Sibling]) -> list[PciAddress]:
    """The PFs here that have VFs which were on different PFs before."""
    before: dict[PciAddress, set[PciAddress]] = {}
    for each in siblings:
        if each.source is not None:
            before.setdefault(each.here, set()).add(each.source)
    return [pf for pf, sources in before.items() if len(sources) > 1]
