# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's networks in memory: definitions by name, running networks, autostart."""

from __future__ import annotations

import uuid
from xml.etree import ElementTree

from vfmigrate.domain.network_xml import NetworkState
from vfmigrate.errors import HostError, Unreachable


class MemoryNetworks:
    """What `Hypervisor` shows of libvirt's networks; `down` is a libvirt that does not run."""

    def __init__(self) -> None:
        self.persistent: dict[str, str] = {}
        self.live: dict[str, str] = {}
        self.autostarting: set[str] = set()
        self.down = False

    def network(self, name: str) -> NetworkState:
        if self.down:
            raise Unreachable("no connection to libvirt")
        return NetworkState(self.persistent.get(name), self.live.get(name), name in self.autostarting)

    def define_network(self, xml: str) -> None:
        network = ElementTree.fromstring(xml)
        name = network.findtext("name")
        assert name is not None
        present = ElementTree.fromstring(self.persistent.get(name, "<network/>")).findtext("uuid")
        if present is not None and network.findtext("uuid") != present:
            raise HostError(f"libvirt: network '{name}' already exists with uuid {present}")
        if network.find("uuid") is None:
            ElementTree.SubElement(network, "uuid").text = str(uuid.uuid4())
        self.persistent[name] = ElementTree.tostring(network, encoding="unicode")

    def start_network(self, name: str) -> None:
        assert name not in self.live
        self.live[name] = self.persistent[name]

    def stop_network(self, name: str) -> None:
        del self.live[name]

    def autostart_network(self, name: str) -> None:
        self.autostarting.add(name)
