# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch of a host in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Callable, Optional

from vfmigrate import locks
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.ovs.openvswitch import OWNER_KEY, PortSettings, SwitchPort


class MemorySwitch:
    """What `vfmigrate.ovs.openvswitch.OpenVswitch` shows of a switch that has ports and forwards nothing."""

    def __init__(self, *bridges: str) -> None:
        self.bridges = set(bridges)
        self.datapaths: dict[str, str] = {}
        self.ports: dict[str, SwitchPort] = {}
        self.frames: list[tuple[str, int, bytes]] = []
        self.sent = threading.Event()
        self.down = False
        self.other_config: dict[str, str] = {}
        self.uplinks: dict[str, str] = {}
        #: the MAC tables of the bridges: VLANs by MAC
        self.seen: dict[str, set[int]] = {}

    def seen_in(self, bridge: str, macs: Iterable[str]) -> dict[str, frozenset[int]]:
        locks.may_take_long("asks ovs-vswitchd for a MAC table")
        if self.down or bridge not in self.bridges:
            raise Unreachable("ovs-vswitchd does not run")
        return {mac: frozenset(self.seen.get(mac, ())) for mac in macs}

    def settings(self) -> dict[str, str]:
        self._reach()
        return dict(self.other_config)

    def configure(self, wanted: Mapping[str, str]) -> None:
        self._reach()
        self.other_config.update(wanted)

    def add_bridge(self, name: str) -> None:
        self._reach()
        self.bridges.add(name)

    def bridge_of(self, netdev: str) -> Optional[str]:
        self._reach()
        return self.uplinks.get(netdev)

    def add_uplink(self, name: str, netdev: str) -> None:
        self._reach()
        assert name in self.bridges
        self.uplinks[netdev] = name

    def _reach(self) -> None:
        locks.may_take_long("asks Open vSwitch's database")
        if self.down:
            raise Unreachable("ovsdb-server does not answer")

    def datapath(self, name: str) -> Optional[str]:
        self._reach()
        return self.datapaths.get(name, "system") if name in self.bridges else None

    def bridge_exists(self, name: str) -> bool:
        self._reach()
        return name in self.bridges

    def port(self, name: str) -> Optional[SwitchPort]:
        self._reach()
        return self.ports.get(name)

    def owned_ports(self) -> list[SwitchPort]:
        self._reach()
        return [port for port in self.ports.values() if port.owner is not None]

    def plug(
        self,
        bridge: str,
        netdev: str,
        owner: str,
        settings: PortSettings,
        *,
        meanwhile: Optional[Callable[[], object]] = None,
    ) -> SwitchPort:
        self._reach()
        if bridge not in self.bridges:
            raise HostError(f"Open vSwitch has no bridge '{bridge}'")
        present = self.ports.get(netdev)
        if present is not None and present.owner != owner:
            raise HostError(f"port {netdev} of bridge {present.bridge} belongs to '{present.owner}'")
        ids = {**settings.external_ids, OWNER_KEY: owner}
        number = len(self.ports) + 1
        port = SwitchPort(netdev, bridge, settings.tag, settings.trunks, ids, owner, number, None)
        self.ports[netdev] = port
        if meanwhile is not None:
            meanwhile()
        return port

    def unplug(self, netdev: str, owner: str) -> bool:
        self._reach()
        port = self.ports.get(netdev)
        if port is None or port.owner != owner:
            return False
        del self.ports[netdev]
        return True

    def packet_out(self, bridge: str, ofport: int, frame: bytes) -> None:
        self._reach()
        self.frames.append((bridge, ofport, frame))
        self.sent.set()
