# SPDX-License-Identifier: GPL-2.0-or-later
"""The network devices of a host in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from tests.fakes.card import Card
from vfmigrate import locks
from vfmigrate.host.links import Link, Traffic


class MemoryLinks:
    """The network devices of a card, which only store what they get; down at first."""

    def __init__(self, card: Card) -> None:
        self._card = card
        self.links: dict[int, Link] = {}
        self.counted: dict[int, Traffic] = {}
        self.ip_addresses: dict[int, list[str]] = {}
        self.ip_routes: dict[int, list[str]] = {}

    def _look(self) -> dict[int, Link]:
        locks.may_take_long("sends a netlink request")
        for function in self._card.functions():
            for netdev, _ in self._card.netdevs(function.address):
                new = Link(netdev.ifindex, netdev.name, False, 1500, "02:00:00:00:00:01")
                self.links.setdefault(netdev.ifindex, new)
        return self.links

    def all(self) -> dict[int, Link]:
        return dict(self._look())

    def link(self, ifindex: int) -> Link:
        return self._look()[ifindex]

    def vlan_devices(self, ifindex: int) -> list[Link]:
        return [link for link in self._look().values() if link.lower == ifindex]

    def find(self, name: str) -> Optional[Link]:
        return next((link for link in self._look().values() if link.name == name), None)

    def addresses(self) -> dict[int, list[str]]:
        locks.may_take_long("sends a netlink request")
        return self.ip_addresses

    def traffic(self, ifindex: int) -> Traffic:
        return self.counted.get(self.link(ifindex).index, Traffic(0, 0))

    def routes(self, ifindex: int) -> list[str]:
        locks.may_take_long("sends a netlink request")
        return self.ip_routes.get(ifindex, [])

    def set_up(self, ifindex: int, up: bool = True) -> None:
        self.links[ifindex] = replace(self.link(ifindex), up=up)

    def set_mtu(self, ifindex: int, mtu: int) -> None:
        self.links[ifindex] = replace(self.link(ifindex), mtu=mtu)
