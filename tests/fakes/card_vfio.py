# SPDX-License-Identifier: GPL-2.0-or-later
"""VFIO of a host in memory: what the VFs of a fake card answer."""

from __future__ import annotations

from typing import Optional

from tests.fakes.card import Card
from vfmigrate.errors import HostError
from vfmigrate.host.vfio import VfioNodes
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import MigrationSupport


class CardVfio:
    """What `vfmigrate.host.vfio.Vfio` shows of a card; `asked` are the VFs that were opened."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.asked: list[PciAddress] = []
        self.refusal: Optional[HostError] = None

    def ask(self, vf: PciAddress, nodes: VfioNodes, driver: str) -> MigrationSupport:
        assert nodes.group == f"vfio/{self._card.function(str(vf)).iommu_group}"
        assert self._card.function(str(vf)).driver == driver
        self.asked.append(vf)
        if self.refusal is not None:
            raise self.refusal
        flags, logs, size = self._card.vfio_answer(str(vf))
        able, p2p, pre_copy = (bool(flags & bit) for bit in (1, 2, 4))
        return MigrationSupport(driver, able, p2p, pre_copy, logs, size if able else None)
