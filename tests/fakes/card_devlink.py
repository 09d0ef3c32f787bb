# SPDX-License-Identifier: GPL-2.0-or-later
"""devlink of a host in memory: eswitch, port functions and versions of a fake card."""

from __future__ import annotations

from typing import Optional

from tests.fakes.card import Card
from tests.fakes.card_refusals import asked_to
from tests.fakes.hardware import DevlinkPort
from vfmigrate import locks
from vfmigrate.host.devlink_messages import CardVersions, Port, local_vf_ports
from vfmigrate.model.pci import PciAddress


class CardDevlink:
    """What `vfmigrate.host.devlink.Devlink` shows of a card."""

    def __init__(self, card: Card) -> None:
        self.card = card

    def eswitch_mode(self, pf: PciAddress) -> str:
        with asked_to(f"devlink: cannot read the eswitch mode of PF {pf}"):
            return self.card.eswitch_mode(str(pf))

    def set_eswitch_mode(self, pf: PciAddress, mode: str) -> None:
        with asked_to(f"devlink: cannot set the eswitch mode to {mode} of PF {pf}"):
            self.card.set_eswitch_mode(str(pf), mode)

    def ports(self, pf: PciAddress) -> list[Port]:
        locks.may_take_long("asks devlink")
        with asked_to(f"devlink: ports of {pf}"):
            return [_port(port) for port in self.card.ports(str(pf))]

    def vf_ports(self, pf: PciAddress, _count: Optional[int] = None) -> dict[int, Port]:
        return local_vf_ports(pf, self.ports(pf))

    def vf_port(self, pf: PciAddress, vf: int) -> Optional[Port]:
        return self.vf_ports(pf).get(vf)

    def set_port_function(
        self,
        pf: PciAddress,
        port_index: int,
        *,
        hw_addr: Optional[str] = None,
        migratable: Optional[bool] = None,
    ) -> None:
        with asked_to(f"port function {pf}/{port_index}"):
            self.card.set_port_function(str(pf), port_index, hw_addr=hw_addr, migratable=migratable)

    def info(self, pf: PciAddress) -> CardVersions:
        with asked_to(f"devlink: cannot read the card's versions of PF {pf}"):
            told = self.card.info(str(pf))
        return CardVersions(self.card.hardware.host_driver, told["fixed"], told["running"], told["stored"])


def _port(port: DevlinkPort) -> Port:
    name, ifindex = (port.netdev.name, port.netdev.ifindex) if port.netdev else (None, None)
    return Port(
        port.index,
        port.flavour,
        port.vf,
        port.pf,
        port.controller,
        port.external,
        ifindex,
        name,
        port.hw_addr,
        port.migratable,
    )
