# SPDX-License-Identifier: GPL-2.0-or-later
"""A vNIC's `<interface>`: what it says, and the same vNIC on a VF. Pure.

Format: https://libvirt.org/formatdomain.html#network-interfaces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional
from xml.etree import ElementTree as ET

from vfmigrate_vdsm.daemon import PluginError

#: what a vNIC keeps when it turns from a bridge's port into a VF; anything else describes the virtio device, or asks
#: the bridge for something, and libvirt refuses some of it on a VF
KEPT = frozenset({"mac", "link", "boot", "alias", "address", "rom", "acpi"})
#: gone without a word: what stands in its place, or has no meaning left
REPLACED = frozenset({"source", "model", "driver", "target", "backend", "mtu"})


def mac(interface: ET.Element) -> str:
    """The MAC address, in lower case. Raises PluginError when there is none."""
    found = _attribute(interface, "mac", "address")
    if not found:
        raise PluginError("the vNIC has no MAC address")
    return found.lower()


def alias(interface: ET.Element) -> Optional[str]:
    """The alias."""
    return _attribute(interface, "alias", "name")


def persistent(interface: ET.Element) -> Optional[str]:
    """The alias of the standby whose failover VF this is."""
    return _attribute(interface, "teaming", "persistent")


def mtu(interface: ET.Element) -> Optional[int]:
    """The MTU that is asked for. libvirt refuses one on a VF: the port has it, and the guest sets its own."""
    text = _attribute(interface, "mtu", "size") or ""
    return int(text) if text.isdigit() else None


def tag(interface: ET.Element) -> Optional[int]:
    """The VLAN that libvirt is asked to set on the VF. Raises PluginError for more than one, or none that is one."""
    tags = interface.findall("vlan/tag")
    if not tags:
        return None
    text = tags[0].get("id", "")
    if len(tags) > 1 or not text.isdigit() or not 1 <= int(text) <= 4094:
        raise PluginError(f"the <vlan> of the vNIC with MAC {mac(interface)} is not one VLAN from 1 to 4094")
    return int(text)


def vf(interface: ET.Element) -> Optional[str]:
    """The host's address of the VF, as 0000:e1:00.2; None when it is not on a VF. Raises PluginError."""
    address = interface.find("source/address")
    if interface.get("type") != "hostdev" or address is None or address.get("type", "pci") != "pci":
        return None
    try:
        numbers = [int(address.get(key, "0"), 0) for key in ("domain", "bus", "slot", "function")]
    except ValueError:
        raise PluginError(
            f"the vNIC with MAC {mac(interface)} has a PCI address that is not a number"
        ) from None
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*numbers)


def of_engine(interface: ET.Element) -> bool:
    """Whether the engine chose the VF (a passthrough profile), which vdsm binds by itself."""
    return interface.get("type") == "hostdev" and interface.get("managed") != "yes"


def check_convertible(interface: ET.Element) -> None:
    """Raises PluginError for a vNIC that cannot be turned into one whose VF takes its state along."""
    name = f"the vNIC with MAC {mac(interface)}"
    if of_engine(interface):
        raise PluginError(
            f"{name} is on a passthrough profile, which the engine unplugs before a migration; "
            "give vfmigrate_strategy=vfio to a vNIC on a profile without passthrough"
        )
    if interface.get("type") != "bridge":
        raise PluginError(f"{name} is of type '{interface.get('type')}', and only a bridge's can become a VF")
    if interface.find("teaming") is not None:
        raise PluginError(f"{name} is half of a failover pair; its VF cannot migrate with its state as well")


def convert(interface: ET.Element, address: str) -> list[str]:
    """Put a bridge's vNIC on the VF at `address`; returns the names of what had to be left out."""
    dropped = [
        child.tag
        for child in interface
        if child.tag not in KEPT | REPLACED or (child.tag == "address" and not _is_pci(child))
    ]
    for child in list(interface):
        if child.tag in REPLACED or child.tag in dropped:
            interface.remove(child)
    interface.set("type", "hostdev")
    interface.set("managed", "yes")
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    numbers = {"domain": domain, "bus": bus, "slot": slot, "function": function}
    source = ET.Element("source")
    ET.SubElement(source, "address", {"type": "pci", **{key: f"0x{value}" for key, value in numbers.items()}})
    interface.insert(1, source)
    interface.insert(2, ET.Element("driver", {"name": "vfio"}))
    return dropped


def take_out_vlan(interface: ET.Element) -> None:
    """Leave the tag to the port: under switchdev the kernel refuses to set it on the VF."""
    for vlan in interface.findall("vlan"):
        interface.remove(vlan)


def check_pairs(interfaces: list[ET.Element]) -> None:
    """Raises PluginError for failover pairs that libvirt or the guest would not take as they are."""
    owners: dict[str, str] = {}
    standbys = {alias(interface): interface for interface in interfaces if persistent(interface) is None}
    for interface in interfaces:
        name = persistent(interface)
        if name is None:
            continue
        if name in owners:
            raise PluginError(
                f"the vNICs with MAC {owners[name]} and {mac(interface)} have the same failover profile, and oVirt "
                f"gives both standbys the alias '{name}'; give each its own failover profile"
            )
        owners[name] = mac(interface)
        standby = standbys.get(name)
        if standby is None:
            raise PluginError(f"the vNIC with MAC {mac(interface)} has no standby with the alias '{name}'")
        if mac(standby) != mac(interface):
            raise PluginError(
                f"the vNIC with MAC {mac(interface)} has a standby with MAC {mac(standby)}; the guest needs them equal"
            )


def interfaces(domain: ET.Element) -> list[ET.Element]:
    """The vNICs of a domain."""
    return list(domain.iterfind("devices/interface"))


def engine_vfs(domain: ET.Element) -> Iterator[tuple[ET.Element, str]]:
    """The vNICs of a domain that are on a VF of the engine's choice, with its address."""
    for interface in interfaces(domain):
        address = vf(interface)
        if address is not None and of_engine(interface):
            yield interface, address


def _is_pci(address: ET.Element) -> bool:
    return address.get("type") == "pci"


def _attribute(interface: ET.Element, child: str, name: str) -> Optional[str]:
    found = interface.find(child)
    return found.get(name) if found is not None else None
