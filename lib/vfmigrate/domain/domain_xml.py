# SPDX-License-Identifier: GPL-2.0-or-later
"""Domain XML: which VFs a guest has, and the same XML with other VFs.

Pure: text in, values or text out. Rewriting replaces the digits of addresses; every other byte stays the same.

Forms of a VF (https://libvirt.org/formatdomain.html#network-interfaces and #host-device-assignment):

- `<interface type='hostdev'>`: libvirt sets the MAC; a resolved interface of a pool's network has this form;
- `<hostdev mode='subsystem' type='pci'>`: the bare device, which carries no MAC in the XML;
- `<interface type='network'>`: an interface of a hostdev network not yet resolved, or of any other network.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Optional, Union

from lxml import etree

from vfmigrate.domain import mark_matching, metadata, pci_xml, trace_mark, xml_parser
from vfmigrate.domain.markup import Markup
from vfmigrate.domain.metadata import Mark
from vfmigrate.domain.trace_mark import TraceMark
from vfmigrate.errors import InputError
from vfmigrate.model.limits import MAX_NAME_BYTES
from vfmigrate.model.mac import is_mac
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.strategy import Strategy, of_interface


@dataclass(frozen=True)
class VfInterface:
    """A device of a domain that is, or can be, a VF."""

    #: position among the children of <devices>, which identifies the device in `readdress`
    position: int
    #: 'interface', 'hostdev' or 'network', as in the module's docstring
    form: str
    #: MAC address in lower case; None for a plain <hostdev>
    mac: Optional[str] = None
    #: host address of the VF; None while an interface of a network is not resolved
    address: Optional[PciAddress] = None
    #: libvirt binds the VFIO driver itself, and gives the VF back to the host's driver afterwards
    managed: bool = False
    #: the interface asks libvirt to set a VLAN on the VF
    vlan: bool = False
    #: the driver that its <driver model=…> selects, which libvirt binds whatever the kernel has
    driver: Optional[str] = None
    #: 'transient' for the VF of a failover pair, or None
    teaming: Optional[str] = None
    #: alias of the other half of its failover pair
    standby: Optional[str] = None
    #: the mark of this interface in the metadata
    mark: Optional[Mark] = None

    @property
    def wanted_mac(self) -> Optional[str]:
        """The MAC of the interface; for a plain <hostdev> the one in its mark."""
        return self.mac or (self.mark.mac if self.mark else None)

    @property
    def strategy(self) -> Strategy:
        """How its VF gets to another host."""
        marked = self.mark.strategy if self.mark is not None else None
        return of_interface(teamed=self.teaming == "transient", marked=marked)


@dataclass(frozen=True)
class Standby:
    """The persistent half of a failover pair: the interface that the guest uses while its VF is unplugged."""

    alias: Optional[str]
    mac: Optional[str]
    model: Optional[str]
    #: 'bridge', 'network', or another type of interface
    kind: str
    #: name of the bridge or network
    source: Optional[str]
    #: the bridge is one of Open vSwitch
    openvswitch: bool = False
    #: VLAN tag of its port; None without one, and for a trunk
    vlan: Optional[int] = None
    #: VLANs of a trunk
    trunks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Domain:
    """What vfmigrate needs to know of a domain."""

    uuid: str
    name: str
    interfaces: tuple[VfInterface, ...]
    #: the guest has a virtual IOMMU, with which QEMU refuses to migrate VFIO devices
    viommu: bool
    standbys: tuple[Standby, ...] = ()
    #: all marks in the metadata, also those of interfaces that the domain does not have now
    marks: tuple[Mark, ...] = ()
    #: the memory that it has now
    memory_kib: int = 0
    #: the NUMA nodes of the host that its memory is bound to; empty where the definition binds it to none
    memory_nodes: frozenset[int] = frozenset()
    #: what names its next migration, or the one by which it arrives
    trace: Optional[TraceMark] = None


def _parse(xml: Union[str, bytes]) -> etree._Element:
    """The `<domain>` element. Raises InputError."""
    root = xml_parser.parse(xml, "the domain XML")
    if root.tag != "domain":
        raise InputError(f"the XML is of a <{str(root.tag)[:40]}>, not of a <domain>")
    return root


def _pci_address(device: etree._Element) -> Optional[PciAddress]:
    element = device.find("source/address")
    if element is None or element.get("type", "pci") != "pci":
        return None
    return pci_xml.read(element.get)


def _is_standby(device: etree._Element) -> bool:
    """Whether this is the standby of a failover pair: a VF can be none, whatever its <teaming> says."""
    return device.get("type") != "hostdev" and _attribute(device, "teaming", "type") == "persistent"


def _is_pci(device: etree._Element) -> bool:
    """Whether the device of the host is one of PCI; the schema allows one of USB too."""
    return (
        _attribute(device, "source/address", "type") in (None, "pci") and device.find("source/vendor") is None
    )


def _interface(position: int, device: etree._Element) -> Optional[VfInterface]:
    """The VF in a child of <devices>; None when it cannot be one."""
    teaming = device.find("teaming")
    if device.tag == "hostdev":
        if device.get("mode", "subsystem") != "subsystem" or device.get("type") != "pci":
            return None
        form, mac = "hostdev", None
    elif device.tag == "interface" and device.get("type") in ("hostdev", "network"):
        if _is_standby(device) or (device.get("type") == "hostdev" and not _is_pci(device)):
            return None
        form = "interface" if device.get("type") == "hostdev" else "network"
        mac_element = device.find("mac")
        mac = mac_element.get("address", "").lower() if mac_element is not None else None
        if mac and not is_mac(mac):
            raise InputError("the domain XML has an invalid MAC address")
    else:
        return None
    address = _pci_address(device) if form != "network" else None
    return VfInterface(
        position=position,
        form=form,
        mac=mac or None,
        address=address,
        managed=device.get("managed") == "yes",
        vlan=device.find("vlan") is not None,
        driver=_attribute(device, "driver", "model"),
        teaming=teaming.get("type") if teaming is not None else None,
        standby=teaming.get("persistent") if teaming is not None else None,
    )


def _attribute(device: etree._Element, path: str, key: str) -> Optional[str]:
    element = device.find(path)
    return element.get(key) if element is not None else None


def _standby(device: etree._Element) -> Standby:
    kind = device.get("type", "")
    vlan = device.find("vlan")
    try:
        tags = [int(tag.get("id", "")) for tag in vlan.findall("tag")] if vlan is not None else []
    except ValueError:
        raise InputError("the domain XML has a VLAN tag that is not a number") from None
    is_trunk = vlan is not None and (vlan.get("trunk") == "yes" or len(tags) > 1)
    mac = _attribute(device, "mac", "address")
    return Standby(
        alias=_attribute(device, "alias", "name"),
        mac=mac.lower() if mac else None,
        model=_attribute(device, "model", "type"),
        kind=kind,
        source=_attribute(device, "source", kind if kind in ("bridge", "network") else "dev"),
        openvswitch=_attribute(device, "virtualport", "type") == "openvswitch",
        vlan=tags[0] if tags and not is_trunk else None,
        trunks=tuple(sorted(tags)) if is_trunk else (),
    )


def _text(root: etree._Element, tag: str) -> str:
    text = (root.findtext(tag) or "").strip()
    if not text:
        raise InputError(f"the domain XML has no <{tag}>")
    return text


def _name(root: etree._Element) -> str:
    name = _text(root, "name")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InputError(f"the domain XML has a <name> of more than {MAX_NAME_BYTES} bytes")
    return name


def _memory_kib(root: etree._Element) -> int:
    text = root.findtext("currentMemory") or root.findtext("memory") or "0"  # libvirt always writes KiB
    return int(text) if text.isdigit() else 0


def _memory_nodes(root: etree._Element) -> frozenset[int]:
    """The nodesets of <numatune> together, such as '0-3,^2,5'; what is not one says nothing."""
    nodes: set[int] = set()
    for element in root.findall("numatune/*"):
        for part in element.get("nodeset", "").split(","):
            found = re.fullmatch(r"(\^?)([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
            if found is not None:
                first, last = int(found[2]), int(found[3] or found[2])
                named = range(first, last + 1)
                nodes = nodes.difference(named) if found[1] else nodes.union(named)
    return frozenset(nodes)


def _uuid(root: etree._Element) -> str:
    text = _text(root, "uuid")
    try:
        uuid.UUID(text)
    except ValueError:
        raise InputError("the domain XML has an invalid <uuid>") from None
    return text


def read(xml: Union[str, bytes], *, lenient: bool = False) -> Domain:
    """Read a domain.

    Raises InputError for XML that is malformed, too large or not a domain, and for metadata of ours that cannot be
    read. With `lenient`, for callers that cannot refuse any more, such metadata is ignored.
    """
    root = _parse(xml)
    try:
        marks = metadata.read(root)
    except InputError:
        if not lenient:
            raise
        marks = ()
    devices = (_interface(at, device) for at, device in enumerate(root.findall("devices/*")))
    interfaces = [interface for interface in devices if interface is not None]
    found = mark_matching.match(interfaces, marks)
    return Domain(
        uuid=_uuid(root),
        name=_name(root),
        interfaces=tuple(replace(each, mark=mark) for each, mark in zip(interfaces, found)),
        viommu=root.find("devices/iommu") is not None,
        standbys=tuple(
            _standby(device) for device in root.findall("devices/interface") if _is_standby(device)
        ),
        marks=marks,
        memory_kib=_memory_kib(root),
        memory_nodes=_memory_nodes(root),
        trace=trace_mark.read(root),
    )


def twin(domain: Domain, interface: VfInterface) -> int:
    """How many VFs of a domain have the MAC of this interface and stand before it; 0 for all but a few guests."""
    mac = interface.wanted_mac
    return sum(
        each.position < interface.position and mac is not None and each.wanted_mac == mac
        for each in domain.interfaces
        if each.form != "network" or each.mark is not None
    )


def macs(xml: Union[str, bytes]) -> frozenset[str]:
    """The MACs of all interfaces of a domain, in lower case. Raises InputError."""
    return frozenset(
        element.get("address", "").lower() for element in _parse(xml).findall("devices/interface/mac")
    )


def readdress(
    xml: Union[str, bytes],
    addresses: Mapping[int, PciAddress],
    marked: Optional[Mapping[int, PciAddress]] = None,
    forgotten: Container[PciAddress] = (),
) -> str:
    """The same XML with other VFs: `addresses` maps an interface's position to its new host address.

    The marks in the metadata are changed as well, because that of a plain <hostdev> has its address; `marked` are the
    addresses in the marks of interfaces that name another VF than their marks. Marks with an address that is
    `forgotten` lose it. A <driver model=…> is kept: it names the variant driver, which is the same on every host.
    Raises InputError like `read`, and when a device has no address.
    """
    root = _parse(xml)
    markup = Markup(xml)
    devices = list(markup.root.all("devices/*"))
    moved: dict[PciAddress, PciAddress] = {}
    for position, address in addresses.items():
        element = devices[position].first("source/address") if position < len(devices) else None
        if element is None:
            raise InputError("the domain XML has a VF without an address to rewrite")
        markup.set_attributes(element, pci_xml.attributes(address))
        before = (marked or {}).get(position) or _pci_address(root.findall("devices/*")[position])
        if before is not None:
            moved[before] = address
    for mark in markup.root.all(f"metadata/{metadata.URI} vfs/{metadata.URI} vf"):
        text = mark.attributes.get("address")
        named = PciAddress.parse(text) if text is not None else None
        if named in moved:
            markup.set_attributes(mark, {"address": str(moved[named])})
        elif named is not None and named in forgotten:
            markup.set_attributes(mark, {"address": None})
    return markup.text()


def device(xml: Union[str, bytes], position: int) -> str:
    """The text of one child of <devices>, by its position."""
    _parse(xml)
    markup = Markup(xml)
    return markup.text_of(list(markup.root.all("devices/*"))[position])
