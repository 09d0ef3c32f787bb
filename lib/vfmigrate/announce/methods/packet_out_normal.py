# SPDX-License-Identifier: GPL-2.0-or-later
"""RARP frames by an OpenFlow packet-out with action NORMAL: for every bridge that forwards like a switch.

With the VF's port as in-port the bridge learns the MAC and adds the port's tag, as for the guest's own frames. A frame
sent on the representor would go to the guest instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from vfmigrate.announce.method import BridgePort, Method
from vfmigrate.announce.rarp import rarp
from vfmigrate.converge.observe import Host


class PacketOutNormal(Method):
    """Announces through the flow table of a plain bridge."""

    is_default = True

    def suits(self, host: Host, port: BridgePort) -> bool:  # noqa: ARG002 - every port
        """Every port."""
        return True

    def send(self, host: Host, port: BridgePort, mac: str, vlans: Sequence[int]) -> None:
        """Send one frame for each VLAN."""
        for vlan in vlans:
            host.ovs.packet_out(port.bridge, port.ofport, rarp(mac, vlan))


METHOD = PacketOutNormal()
