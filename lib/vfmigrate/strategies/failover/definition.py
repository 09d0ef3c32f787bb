# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes a failover pair of a VF in a guest's definition, and a lone VF of a pair again. Pure: XML in, XML out.

The VF becomes the transient half, and a new virtio interface with its MAC the persistent half. What was added is noted
in the definition's metadata, so that it can be taken away exactly; a pair that somebody else made is not touched.
Everything else in the text stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from html import escape
from typing import Optional

from vfmigrate.domain import additions, domain_xml, metadata, pci_topology, pci_xml
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.markup import Element, Markup
from vfmigrate.errors import Refused
from vfmigrate.model import strategy
from vfmigrate.rules.failover_pair import Pair, check_vlan, pair_of, pairs
from vfmigrate.strategies.failover.live_pair import Halves

#: libvirt ignores an alias set by a user that does not begin so
_ALIAS = re.compile(r"ua-[A-Za-z0-9_-]{1,60}")


@dataclass(frozen=True)
class StandbyOptions:
    """What stands by for which VF."""

    #: the VF's MAC; None: the guest's only VF
    mac: Optional[str] = None
    bridge: Optional[str] = None
    network: Optional[str] = None
    #: the bridge, or the network's, is one of Open vSwitch
    openvswitch: bool = False
    vlan: Optional[int] = None
    alias: Optional[str] = None


def enable(
    xml: str, wish: StandbyOptions, hostdev_networks: Collection[str] = (), *, stamped: bool = False
) -> str:
    """The definition with a failover pair; the same when it has that pair already.

    `hostdev_networks` are the libvirt networks that give away VFs. `stamped`: it is the XML of a running guest, whose
    metadata the daemon wrote: the strategy there is how the VF would cross now, and nobody's wish.
    Raises Refused for what cannot work.
    """
    guest = domain_xml.read(xml)
    markup = Markup(xml)
    devices = list(markup.root.all("devices/*"))
    vf = chosen(guest, devices, wish.mac, hostdev_networks)
    if vf.teaming is not None:
        _check_same(pair_of(guest, vf), wish)
        return xml
    pairs(guest)
    if not stamped:
        _check_strategy(guest, vf)
    wish = _completed(guest, vf, wish)
    mac, alias = str(wish.mac), str(wish.alias)
    _check_devices(guest, devices, mac, alias, devices[vf.position])
    _check_slot(markup.root, devices[vf.position], guest.name)
    _add_teaming(markup, devices[vf.position], f"<teaming type='transient' persistent='{alias}'/>")
    markup.insert_before(devices[vf.position], _standby_lines(wish))
    noted = additions.read(markup.root)
    changed = additions.write(markup.text(), replace(noted, pairs={**noted.pairs, mac: alias}))
    for pair in pairs(domain_xml.read(changed)):
        if pair.vf.wanted_mac == mac and pair.vf.mark is not None and pair.vf.mark.vlan is not None:
            check_vlan(pair, pair.vf.mark.vlan, pair.vf.mark.trunks)
    return changed


def _add_teaming(markup: Markup, vf: Element, teaming: str) -> None:
    """The schema has it anywhere in an <interface>, and before <source> in a <hostdev>."""
    source = vf.first("source")
    if vf.name == "hostdev" and source is not None:
        markup.insert_before(source, [teaming])
    else:
        markup.append(vf, [teaming])


def live_halves(xml: str, wish: StandbyOptions, hostdev_networks: Collection[str] = ()) -> Optional[Halves]:
    """What has to be plugged into a guest that runs, from its XML; None when it has the pair.

    Raises Refused for what cannot work.
    """
    changed = enable(xml, wish, hostdev_networks, stamped=True)
    if changed == xml:
        return None
    before = domain_xml.read(xml)
    (pair,) = (each for each in pairs(domain_xml.read(changed)) if each not in pairs(before))
    mac = str(pair.vf.wanted_mac)
    devices = list(Markup(changed).root.all("devices/*"))
    standby = next(
        index for index, each in enumerate(devices) if each.get("alias", "name") == pair.standby.alias
    )
    lone = next(each.position for each in before.interfaces if each.wanted_mac == mac)
    return Halves(
        mac,
        vf=domain_xml.device(xml, lone),
        primary=domain_xml.device(changed, pair.vf.position),
        standby=domain_xml.device(changed, standby),
    )


def disable(xml: str, mac: Optional[str] = None) -> str:
    """The definition as it was before `enable`. Raises Refused when the pair is not one that `enable` made."""
    guest = domain_xml.read(xml)
    markup = Markup(xml)
    noted = additions.read(markup.root)
    teamed = [each for each in guest.interfaces if each.teaming == "transient"]
    if mac is not None:
        teamed = [each for each in teamed if each.wanted_mac == mac.lower()]
    if not teamed:
        suffix = f" for MAC {mac}" if mac is not None else ""
        raise Refused(f"guest '{guest.name}' has no failover pair{suffix}", "see vfmigrate failover show")
    if len(teamed) > 1:
        macs = ", ".join(str(each.wanted_mac) for each in teamed)
        raise Refused(f"guest '{guest.name}' has several failover pairs: {macs}", "choose one with --mac")
    pair = pair_of(guest, teamed[0])
    found = str(pair.vf.wanted_mac)
    alias = noted.pairs.get(found)
    if alias is None or alias != pair.standby.alias:
        raise Refused(
            f"the failover pair of MAC {found} in guest '{guest.name}' was not made by vfmigrate",
            "remove its <teaming> elements and its standby yourself: virsh edit",
        )
    devices = list(markup.root.all("devices/*"))
    teaming = devices[pair.vf.position].first("teaming")
    standbys = [each for each in devices if each.get("alias", "name") == alias]
    for element in (*standbys, *([teaming] if teaming is not None else [])):
        markup.remove(element)
    pairs_left = {mac: alias for mac, alias in noted.pairs.items() if mac != found}
    return additions.without_controllers(
        _without_strategy(markup.text(), found), replace(noted, pairs=pairs_left)
    )


def _without_strategy(xml: str, mac: str) -> str:
    """The definition whose mark of a VF asks for no pair: without a standby, the guest's next start is refused."""
    markup = Markup(xml)
    for mark in markup.root.all(f"metadata/{metadata.URI} vfs/{metadata.URI} vf"):
        wanted = mark.attributes.get("strategy")
        if mark.attributes.get("mac", "").lower() != mac or wanted not in strategy.NAMES:
            continue
        if strategy.named(wanted).teamed:
            markup.set_attributes(mark, {"strategy": None})
    return markup.text()


# -- which VF, and whether it can have a standby


def chosen(
    guest: Domain, devices: list[Element], mac: Optional[str], hostdev_networks: Collection[str]
) -> VfInterface:
    """The VF with a MAC, or the guest's only one. Raises Refused when there is none, or more than one."""
    vfs = [
        each
        for each in guest.interfaces
        if each.form != "network" or devices[each.position].get("source", "network") in hostdev_networks
    ]
    if mac is not None:
        vfs = [each for each in vfs if each.wanted_mac == mac.lower()]
    if not vfs:
        suffix = f" with MAC {mac}" if mac is not None else ""
        raise Refused(f"guest '{guest.name}' has no VF{suffix}", "see virsh domiflist")
    if len(vfs) > 1:
        macs = ", ".join(str(each.wanted_mac or each.address) for each in vfs)
        remedy = "choose one with --mac" if mac is None else "give each its own MAC, or use virsh"
        raise Refused(f"guest '{guest.name}' has several VFs: {macs}", remedy)
    return vfs[0]


def _check_strategy(guest: Domain, vf: VfInterface) -> None:
    mark = vf.mark
    if mark is not None and mark.strategy is not None and not strategy.named(mark.strategy).teamed:
        raise Refused(
            f"the metadata of guest '{guest.name}' gives the VF with MAC {vf.wanted_mac} "
            f"the strategy '{mark.strategy}'",
            "a VF has one strategy: remove it from the metadata, or do not add a standby",
        )


def _completed(guest: Domain, vf: VfInterface, wish: StandbyOptions) -> StandbyOptions:
    """The wish with what the VF says of itself: MAC, VLAN, a name for the standby."""
    if vf.wanted_mac is None:
        raise Refused(
            f"VF {vf.address} of guest '{guest.name}' has no MAC, and its standby needs the same MAC",
            "give it one in the vfmigrate metadata, or make it an <interface type='hostdev'>",
        )
    if vf.vlan:
        raise Refused(
            f"the VF with MAC {vf.wanted_mac} has a <vlan>, which a VF in switchdev mode does not support",
            "remove it and give the VLAN in the vfmigrate metadata",
        )
    vlan = wish.vlan
    if vlan is None and vf.mark is not None and wish.openvswitch:
        vlan = vf.mark.vlan
    if vlan is not None and not wish.openvswitch:
        raise Refused(
            "a standby can have a VLAN only on a bridge of Open vSwitch",
            "use such a bridge, or one that is connected to that VLAN",
        )
    alias = wish.alias or f"ua-standby-{vf.wanted_mac.replace(':', '')}"
    if not _ALIAS.fullmatch(alias):
        raise Refused(
            f"libvirt does not keep the alias '{alias}'",
            "begin it with ua-, then use letters, digits, - and _",
        )
    return StandbyOptions(vf.wanted_mac, wish.bridge, wish.network, wish.openvswitch, vlan, alias)


def _check_same(pair: Pair, wish: StandbyOptions) -> None:
    standby = pair.standby
    wanted = (("bridge", wish.bridge) if wish.bridge else ("network", wish.network), wish.alias, wish.vlan)
    there = (
        (standby.kind, standby.source),
        standby.alias if wish.alias else None,
        standby.vlan if wish.vlan else None,
    )
    if wanted != there:
        raise Refused(
            f"the VF with MAC {pair.vf.wanted_mac} has another standby already: '{standby.alias}' "
            f"on {standby.kind} '{standby.source}'",
            "remove it first: vfmigrate failover disable",
        )


def _check_devices(guest: Domain, devices: list[Element], mac: str, alias: str, vf: Element) -> None:
    for device in devices:
        if device.get("alias", "name") == alias:
            raise Refused(
                f"another device of guest '{guest.name}' has the alias '{alias}' already",
                "choose another one with --alias",
            )
        twin = device.name == "interface" and device is not vf
        if twin and (device.get("mac", "address") or "").lower() == mac:
            model = device.get("model", "type") or "none"
            raise Refused(
                f"guest '{guest.name}' has another interface with MAC {mac}, of model '{model}'",
                "remove it (virsh detach-interface --config); vfmigrate adds a virtio one of its own",
            )


def _check_slot(root: Element, vf: Element, guest: str) -> None:
    """QEMU unplugs only a PCI Express device alone in a port with hot-plug (hw/pci/pci.c, failover_pair_id)."""
    if not pci_topology.has_pci_express(root):
        machine = root.get("os/type", "machine") or ""
        raise Refused(
            f"guest '{guest}' is of machine type '{machine}', which has no PCI Express",
            "a failover pair needs a guest of machine type q35",
        )
    address = next((each for each in vf.all("address") if each.attributes.get("type") == "pci"), None)
    if address is None:
        return  # libvirt chooses a fitting one
    slot = pci_xml.read(address.attributes.get)
    if slot.function != 0 or address.attributes.get("multifunction") == "on":
        raise Refused(
            f"the VF shares its slot in guest '{guest}' with other functions",
            "give it a slot of its own: remove its <address type='pci'> in virsh edit",
        )
    obstacle = pci_topology.obstacle(root, vf)
    if obstacle is not None:
        raise Refused(
            f"the VF is on a {obstacle} in guest '{guest}', from which it cannot be unplugged",
            pci_topology.remedy(vf),
        )


def _standby_lines(wish: StandbyOptions) -> list[str]:
    kind, source = ("bridge", wish.bridge) if wish.bridge is not None else ("network", wish.network)
    vlan = ["  <vlan>", f"    <tag id='{wish.vlan}'/>", "  </vlan>"] if wish.vlan is not None else []
    port = ["  <virtualport type='openvswitch'/>"] if wish.openvswitch and kind == "bridge" else []
    return [
        f"<interface type='{kind}'>",
        f"  <mac address='{wish.mac}'/>",
        f"  <source {kind}='{escape(str(source))}'/>",
        *vlan,
        *port,
        "  <model type='virtio'/>",
        "  <teaming type='persistent'/>",
        f"  <alias name='{wish.alias}'/>",
        "</interface>",
    ]
