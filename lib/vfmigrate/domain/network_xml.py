# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML of a pool's libvirt network, and how a network differs from what is wanted.

Pure. The network lists the addresses of its VFs and has no `<pf dev='…'/>`: libvirt allows only one PF, names of
network devices change, and under switchdev a PF has many network devices. Format: https://libvirt.org/formatnetwork.html.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from lxml import etree

from vfmigrate.domain import pci_xml, xml_parser
from vfmigrate.errors import HostError, InputError
from vfmigrate.model.pci import PciAddress
from vfmigrate.text import quoted

URI = "urn:vfmigrate:network:1"
PREFIX = "vfmigrate"


@dataclass(frozen=True)
class NetworkState:
    """The present state of a libvirt network: its persistent XML, its live XML while it runs, and autostart."""

    persistent: Optional[str]
    live: Optional[str]
    autostart: bool


def render(name: str, pool: str, vfs: Sequence[PciAddress], network_id: str) -> str:
    """The XML of the network with these VFs; `network_id` is its UUID (see `identity`)."""
    network = etree.Element("network")
    etree.SubElement(network, "name").text = name
    etree.SubElement(network, "uuid").text = network_id
    metadata = etree.SubElement(network, "metadata")
    etree.SubElement(metadata, f"{{{URI}}}pool", {"name": pool}, {PREFIX: URI})
    forward = etree.SubElement(network, "forward", {"mode": "hostdev", "managed": "yes"})
    for vf in vfs:
        attributes: dict[str, str] = {"type": "pci", **pci_xml.attributes(vf)}
        etree.SubElement(forward, "address", attributes)
    return etree.tostring(network, encoding="unicode", pretty_print=True)


def owner(xml: str) -> Optional[str]:
    """The pool of a network; None for a network that vfmigrate did not define."""
    pool = _parse(xml).find(f"metadata/{{{URI}}}pool")
    return pool.get("name") if pool is not None else None


def pool_in(element: str) -> str:
    """The name of the pool in the element that `render` puts into the metadata; empty when it has none."""
    try:
        return xml_parser.parse(element, "the metadata of a network").get("name") or ""
    except InputError:
        return ""


def identity(name: str, state: NetworkState) -> str:
    """The UUID for a network: its present one, because libvirt does not replace a network by one of another UUID.

    That of a new network is derived from its name: two threads that define it at the same time define the same, as the
    reconciler and a provisioning do when libvirt has just come up.
    """
    xml = state.persistent or state.live
    present = _parse(xml).findtext("uuid") if xml is not None else None
    return present or str(uuid.uuid5(uuid.NAMESPACE_URL, f"{URI}:{name}"))


def vfs(xml: str) -> list[PciAddress]:
    """The VFs of a network, in its order."""
    addresses = _parse(xml).iterfind("forward[@mode='hostdev']/address[@type='pci']")
    return [pci_xml.read(address.get) for address in addresses]


def is_hostdev(xml: str) -> bool:
    """Whether a network gives VFs to guests."""
    return _parse(xml).find("forward[@mode='hostdev']") is not None


def is_openvswitch(xml: str) -> bool:
    """Whether a network plugs its guests into Open vSwitch."""
    return _parse(xml).find("virtualport[@type='openvswitch']") is not None


def metadata_namespaces(xml: str) -> list[str]:
    """The namespaces of the elements in a network's metadata, each of which has one of its own."""
    elements = [each for each in _parse(xml).iterfind("metadata/*") if isinstance(each.tag, str)]
    return [uri for uri in (etree.QName(each).namespace for each in elements) if uri is not None]


def differences(name: str, pool: str, wanted: Sequence[PciAddress], state: NetworkState) -> list[str]:
    """The steps after which the network has these VFs, in order: of `define`, `restart`, `start`, `autostart`.

    Raises HostError for a network of this name that vfmigrate did not define for the pool.
    """
    for xml in (state.persistent, state.live):
        if xml is not None and owner(xml) != pool:
            raise HostError(
                f"libvirt's network '{name}' was not defined by vfmigrate for pool '{pool}'",
                f"set another name with the key network of [pool {pool}], or run: virsh net-undefine {quoted(name)}",
            )
    steps = []
    if state.persistent is None or not _gives(state.persistent, wanted):
        steps.append("define")
    if state.live is None:
        steps.append("start")
    elif not _gives(state.live, wanted):
        steps.append("restart")
    if not state.autostart:
        steps.append("autostart")
    return steps


def _gives(xml: str, wanted: Sequence[PciAddress]) -> bool:
    forward = _parse(xml).find("forward")
    managed = forward is not None and forward.get("managed") == "yes"
    return managed and vfs(xml) == list(wanted)


def _parse(xml: str) -> etree._Element:
    try:
        return xml_parser.parse(xml, "libvirt's XML of a network")
    except InputError as error:
        raise HostError(error.problem, error.remedy) from None
