# SPDX-License-Identifier: GPL-2.0-or-later
"""The libvirt network of a pool, from which a guest gets a VF without naming one: its XML, and what differs.

Pure. The VFs are listed by address and not found through `<pf dev='…'/>`: libvirt takes one PF only, names of network
devices change, and under switchdev a PF has many. Format: https://libvirt.org/formatnetwork.html.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from lxml import etree

from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress

URI = "urn:vfmigrate:network:1"
PREFIX = "vfmigrate"


@dataclass(frozen=True)
class NetworkState:
    """A libvirt network as it is: its definitions (None: it has none, it does not run), and whether it autostarts."""

    persistent: Optional[str]
    live: Optional[str]
    autostart: bool


def write(name: str, pool: str, vfs: Sequence[PciAddress], network_id: str) -> str:
    """The network that gives away these VFs; `network_id` is its UUID (see `identity`)."""
    network = etree.Element("network")
    etree.SubElement(network, "name").text = name
    etree.SubElement(network, "uuid").text = network_id
    metadata = etree.SubElement(network, "metadata")
    etree.SubElement(metadata, f"{{{URI}}}pool", {"name": pool}, {PREFIX: URI})
    forward = etree.SubElement(network, "forward", {"mode": "hostdev", "managed": "yes"})
    for vf in vfs:
        etree.SubElement(
            forward,
            "address",
            {
                "type": "pci",
                "domain": f"0x{vf.domain:04x}",
                "bus": f"0x{vf.bus:02x}",
                "slot": f"0x{vf.slot:02x}",
                "function": f"0x{vf.function:x}",
            },
        )
    return etree.tostring(network, encoding="unicode", pretty_print=True)


def owner(xml: str) -> Optional[str]:
    """The pool that a network was made for; None for a network that we did not make."""
    pool = _parse(xml).find(f"metadata/{{{URI}}}pool")
    return pool.get("name") if pool is not None else None


def identity(name: str, state: NetworkState) -> str:
    """The UUID that a network is to have: its own, since libvirt lets none be replaced by one of another UUID.

    A new one's comes from its name. So it is the same network that two define who do not know of each other, as the
    reconciler and a provisioning do when libvirt has just come up.
    """
    xml = state.persistent or state.live
    present = _parse(xml).findtext("uuid") if xml is not None else None
    return present or str(uuid.uuid5(uuid.NAMESPACE_URL, f"{URI}:{name}"))


def vfs(xml: str) -> list[PciAddress]:
    """The VFs that a network gives away, in its order."""
    found = []
    for address in _parse(xml).iterfind("forward[@mode='hostdev']/address[@type='pci']"):
        numbers = (int(address.get(key, "0"), 0) for key in ("domain", "bus", "slot", "function"))
        found.append(PciAddress(*numbers))
    return found


def differences(name: str, pool: str, wanted: Sequence[PciAddress], state: NetworkState) -> list[str]:
    """What is to be done for the network to give away these VFs: of `define`, `restart`, `start`, `autostart`.

    In the order in which it must happen. Raises HostError for a network of this name that we did not make.
    """
    for xml in (state.persistent, state.live):
        if xml is not None and owner(xml) != pool:
            raise HostError(
                f"libvirt's network '{name}' was not made by vfmigrate for pool '{pool}'",
                f"give the pool another one with the key network, or remove it: virsh net-undefine {name}",
            )
    todo = []
    if state.persistent is None or not _gives(state.persistent, wanted):
        todo.append("define")
    if state.live is None:
        todo.append("start")
    elif not _gives(state.live, wanted):
        todo.append("restart")
    if not state.autostart:
        todo.append("autostart")
    return todo


def _gives(xml: str, wanted: Sequence[PciAddress]) -> bool:
    forward = _parse(xml).find("forward")
    managed = forward is not None and forward.get("managed") == "yes"
    return managed and vfs(xml) == list(wanted)


def _parse(xml: str) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        return etree.fromstring(xml.encode(), parser)
    except etree.XMLSyntaxError as error:
        raise HostError(f"libvirt's XML of a network cannot be read: {error}") from None
