# SPDX-License-Identifier: GPL-2.0-or-later
"""A host in memory: sysfs, devlink and VFIO over the fake card, and a switch and links that only store what they get.

For tests of the code that uses these modules. The real modules are tested elsewhere, against the kernel's behaviour and
real servers; these fakes have the same interfaces.
"""

from __future__ import annotations

from typing import Optional, cast

from tests.fakes.card import Card
from tests.fakes.card_devlink import CardDevlink
from tests.fakes.card_sysfs import CardSysfs
from tests.fakes.card_vfio import CardVfio
from tests.fakes.memory_links import MemoryLinks
from tests.fakes.memory_switch import MemorySwitch
from vfmigrate.cards.mlx5 import Mlx5
from vfmigrate.cards.mlx5_mstconfig import FirmwareSettings
from vfmigrate.cards.registry import Vendors
from vfmigrate.converge.observe import Host
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.links import Links
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.vfio import Vfio
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import OpenVswitch

#: the vendors of real cards, without the tools, since there is no card
NO_TOOL = Vendors([Mlx5(FirmwareSettings(tools=()))])


class MemoryHost:
    """A host with one card in memory: VFs created, in switchdev mode, and the bridge of its pool."""

    def __init__(
        self,
        *,
        vfs: int = 4,
        bridge: str = "br-data",
        card: Optional[Card] = None,
        vendors: Vendors = NO_TOOL,
    ) -> None:
        self.card = card or Card(("0000:01:00.0",))
        self.pf = PciAddress.parse(self.card.pfs[0])
        self.card.autoprobe(str(self.pf), "0")
        self.card.numvfs(str(self.pf), str(vfs))
        self.card.set_eswitch_mode(str(self.pf), "switchdev")
        self.sysfs = CardSysfs(self.card)
        self.devlink = CardDevlink(self.card)
        self.links = MemoryLinks(self.card)
        self.vfio = CardVfio(self.card)
        self.ovs = MemorySwitch(bridge)
        self.vfs = self.sysfs.vfs(self.pf)
        self.host = Host(
            cast(Sysfs, self.sysfs),
            cast(Devlink, self.devlink),
            cast(Links, self.links),
            cast(OpenVswitch, self.ovs),
            vendors,
            cast(Vfio, self.vfio),
        )
