# SPDX-License-Identifier: GPL-2.0-or-later
"""Add a VF of a pool to a guest's definition, or remove it. Pure: XML in, XML out.

The interface names the pool's libvirt network, so that the definition is the same on every host. For a pool without a
network it names the address of a VF, which the daemon changes when the guest migrates. VLAN and strategy are in the
mark of the interface in the metadata. The rest of the text does not change.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Optional

from vfmigrate.domain import additions, domain_xml, metadata, pci_topology, pci_xml
from vfmigrate.domain.domain_xml import VfInterface
from vfmigrate.domain.markup import Element, Markup
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import InputError, Refused
from vfmigrate.model.pci import PciAddress


@dataclass(frozen=True)
class Attachment:
    """A VF to add to a guest."""

    mac: str
    pool: str
    #: the pool's libvirt network; None when it has none, and the interface names `vf`
    network: Optional[str] = None
    vf: Optional[PciAddress] = None
    #: VLAN tag of the port; None: the pool's
    vlan: Optional[int] = None
    #: the strategy of the VF; None for the default, which is vfio
    strategy: Optional[str] = None

    def mark(self) -> Mark:
        """Its mark in the metadata."""
        return Mark(mac=self.mac, pool=self.pool, vlan=self.vlan, strategy=self.strategy)

    def device(self) -> list[str]:
        """The lines of its XML element."""
        if self.network is not None:
            return [
                "<interface type='network'>",
                f"  <mac address='{self.mac}'/>",
                f"  <source network='{escape(self.network)}'/>",
                # Without it libvirt chooses rtl8139 on conventional PCI if the network does not exist just now.
                "  <model type='virtio'/>",
                "</interface>",
            ]
        if self.vf is None:
            raise InputError(f"pool '{self.pool}' has neither a libvirt network nor a VF to name")
        return [
            "<interface type='hostdev' managed='yes'>",
            f"  <mac address='{self.mac}'/>",
            "  <source>",
            f"    {pci_xml.render(self.vf)}",
            "  </source>",
            "</interface>",
        ]


def attached(xml: str, attachment: Attachment) -> str:
    """The definition with the VF and its mark."""
    domain_xml.read(xml)
    markup = Markup(xml)
    empty = additions.kept(markup, "devices", "metadata", f"metadata/{metadata.URI} vfs")
    interfaces = list(markup.root.all("devices/interface"))
    devices = markup.root.first("devices")
    if interfaces:
        markup.insert_after(interfaces[-1], attachment.device())
    elif devices is not None:
        markup.append(devices, attachment.device())
    else:
        raise InputError("the domain XML has no <devices>")
    _add_mark(markup, attachment.mark())
    present = additions.read(markup.root)
    if not empty:
        return markup.text()
    return additions.write(markup.text(), replace(present, kept=(*present.kept, *empty)))


def detached(xml: str, vf: VfInterface) -> str:
    """The definition without one of its VFs, that VF's mark, and the controllers that libvirt added for it."""
    domain_xml.read(xml)
    markup = Markup(xml)
    noted = additions.read(markup.root)
    markup.remove(list(markup.root.all("devices/*"))[vf.position])
    _remove_mark(markup, vf, noted.kept)
    changed = additions.without_empty(markup.text(), "devices", (*noted.kept, "devices"))
    return additions.without_controllers(changed, noted)


def find(xml: str, mac: str) -> Optional[VfInterface]:
    """The interface with this MAC in a domain, which can also be one of another network; None without one."""
    return next((each for each in domain_xml.read(xml).interfaces if each.wanted_mac == mac), None)


def check_free_port(xml: str) -> None:
    """Raises Refused when a running guest has no free PCI Express port for a VF.

    libvirt creates the ports when a domain is defined; a running machine cannot get more. In a machine with
    conventional PCI, only libvirt knows what is free.
    """
    root = Markup(xml).root
    controllers = pci_topology.controllers(root)
    if 0 not in controllers or not pci_topology.has_pci_express(root):
        return
    taken = {bus for device in root.all("devices/*") for bus in pci_topology.buses(device)}
    if any(pci_topology.is_pluggable(each) and bus not in taken for bus, each in controllers.items()):
        return
    raise Refused(
        f"guest '{domain_xml.read(xml).name}' has no free PCI Express port, so a VF cannot be plugged in while it runs",
        "add the VF for the next boot with --config; for later hot-plugs, add "
        "<controller type='pci' model='pcie-root-port'/> to the definition",
    )


# -- the mark


def _mark_tag(prefix: str, mark: Mark) -> str:
    words = {"mac": mark.mac, "pool": mark.pool, "vlan": mark.vlan, "strategy": mark.strategy}
    attributes = "".join(f" {key}='{escape(str(word))}'" for key, word in words.items() if word is not None)
    return f"<{prefix}vf{attributes}/>"


def _add_mark(markup: Markup, mark: Mark) -> None:
    present = markup.root.first(f"metadata/{metadata.URI} vfs")
    if present is not None:
        prefix, colon, _ = markup.tag(present)[1:].split()[0].rstrip("/>").rpartition(":")
        lines = [_mark_tag(prefix + colon, mark)]
        if present.children:
            markup.insert_after(present.children[-1], lines)
        else:
            markup.append(present, lines)
        return
    prefix = metadata.PREFIX
    lines = [
        f"<{prefix}:vfs xmlns:{prefix}='{metadata.URI}'>",
        f"  {_mark_tag(f'{prefix}:', mark)}",
        f"</{prefix}:vfs>",
    ]
    place = markup.root.first("metadata")
    if place is not None:
        markup.append(place, lines)
    else:
        uuid = markup.root.first("uuid") or markup.root.children[0]
        markup.insert_after(uuid, ["<metadata>", *(f"  {line}" for line in lines), "</metadata>"])


def _remove_mark(markup: Markup, vf: VfInterface, kept: tuple[str, ...]) -> None:
    for vfs in markup.root.all(f"metadata/{metadata.URI} vfs"):
        marks = [each for each in vfs.all(f"{metadata.URI} vf") if _is_of(each, vf)]
        if marks and markup.is_blank(vfs, marks):
            additions.remove_empty(markup, vfs, kept)
            continue
        for mark in marks:
            markup.remove(mark)


def _is_of(element: Element, vf: VfInterface) -> bool:
    if vf.mark is None:
        return False
    mac, address = element.attributes.get("mac"), element.attributes.get("address")
    if vf.mark.mac is not None:
        return (mac or "").lower() == vf.mark.mac
    return address is not None and address == str(vf.mark.address)
