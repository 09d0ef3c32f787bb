# SPDX-License-Identifier: GPL-2.0-or-later
"""Failover pairs: a VF and the virtio interface that stands by for it, and what must be true of the two. Pure.

libvirt's `<teaming>` (https://libvirt.org/formatdomain.html#teaming-a-virtio-hostdev-nic-pair) makes QEMU unplug the
VF before a migration and plug one again after it; in the guest net_failover sends by the virtio interface meanwhile
(Documentation/networking/net_failover.rst). What libvirt does not check is checked here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Optional

from vfmigrate.domain import pci_xml
from vfmigrate.domain.domain_xml import Domain, Standby, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model import strategy
from vfmigrate.model.pci import PciAddress


@dataclass(frozen=True)
class Pair:
    """Both halves of a failover pair."""

    vf: VfInterface
    standby: Standby


def _named(interface: VfInterface) -> str:
    return f"MAC {interface.wanted_mac}" if interface.wanted_mac else f"VF {interface.address}"


def pair_of(domain: Domain, vf: VfInterface) -> Pair:
    """The pair that a VF with `<teaming type='transient'>` belongs to.

    Raises Refused for a pair that cannot work.
    """
    told = f"the failover pair of {_named(vf)} in guest '{domain.name}'"
    standby = next((each for each in domain.standbys if each.alias and each.alias == vf.standby), None)
    if standby is None:
        raise Refused(
            f"{told} has no standby: no interface with <teaming type='persistent'/> and alias '{vf.standby}'",
            "see vfmigrate failover show",
        )
    sharing = [each for each in domain.interfaces if each.teaming and each.standby == vf.standby]
    if len(sharing) > 1:
        macs = ", ".join(_named(each) for each in sharing)
        raise Refused(
            f"{told} shares its standby '{vf.standby}' with another: {macs}",
            "give each VF a standby with an alias of its own",
        )
    if standby.model not in ("virtio", "virtio-non-transitional", "virtio-transitional"):
        raise Refused(
            f"{told} has a standby of model '{standby.model}'", "only virtio can stand by: virsh edit"
        )
    if vf.wanted_mac is not None and standby.mac != vf.wanted_mac:
        raise Refused(
            f"{told} has a standby with another MAC, {standby.mac}",
            "give both the same MAC: the guest joins them by it",
        )
    return Pair(vf, standby)


def pairs(domain: Domain) -> list[Pair]:
    """Every pair of a domain. Raises Refused for one that cannot work."""
    return [pair_of(domain, each) for each in domain.interfaces if each.teaming == "transient"]


def is_half(domain: Domain, vf: VfInterface) -> bool:
    """Whether a VF of a running guest is half of a pair, or is being made one: its standby comes first."""
    return vf.teaming == "transient" or has_standby(domain, vf.wanted_mac)


def has_standby(domain: Domain, mac: Optional[str]) -> bool:
    """Whether a domain has a standby with this MAC."""
    return mac is not None and any(each.mac == mac for each in domain.standbys)


def transient_device(domain: Domain, mac: str, vf: PciAddress, *, plain: bool, managed: bool) -> str:
    """The device to plug in where a pair lacks its VF; `plain`: as a <hostdev>, else as an <interface>.

    Raises Refused when the domain has no standby with this MAC.
    """
    standby = next((each for each in domain.standbys if each.mac == mac and each.alias), None)
    if standby is None:
        raise Refused(f"guest '{domain.name}' has no standby with MAC {mac}", "see vfmigrate failover show")
    rest = f"<teaming type='transient' persistent='{escape(str(standby.alias))}'/>"
    words = f"managed='{'yes' if managed else 'no'}'"
    if plain:
        source = f"<source>{pci_xml.render(vf, with_type=False)}</source>"
        return f"<hostdev mode='subsystem' type='pci' {words}>{rest}{source}</hostdev>"
    source = f"<source>{pci_xml.render(vf)}</source>"
    return f"<interface type='hostdev' {words}><mac address='{mac}'/>{source}{rest}</interface>"


def check_crosses(domain: Domain, vf: VfInterface) -> None:
    """Raises Refused for a VF that a plain migration cannot carry in the way chosen for it."""
    marked = strategy.named(vf.mark.strategy if vf.mark is not None else None)
    if marked.unplugged_first:
        raise Refused(
            f"the VF with {_named(vf)} of guest '{domain.name}' crosses by being unplugged (strategy replug), "
            "and it is plugged in",
            f"run: vfmigrate migrate {domain.name} DESTURI, which unplugs it first and plugs one in there",
        )
    if marked.teamed and vf.teaming != "transient":
        raise Refused(
            f"the VF with {_named(vf)} of guest '{domain.name}' has strategy failover and nothing that stands by",
            f"run: vfmigrate failover enable {domain.name} --standby-bridge BRIDGE; then restart the guest",
        )


def with_vlan_of_standby(domain: Domain, vf: VfInterface) -> VfInterface:
    """The VF of a pair whose mark names no VLAN, as if it named its standby's; any other as it is."""
    standby = next((each for each in domain.standbys if each.alias and each.alias == vf.standby), None)
    mark = vf.mark or Mark(mac=vf.mac)
    if standby is None or not standby.openvswitch or mark.vlan is not None or mark.trunks:
        return vf
    return replace(vf, mark=replace(mark, vlan=standby.vlan, trunks=standby.trunks))


def check_vlan(pair: Pair, vlan: Optional[int], trunks: tuple[int, ...]) -> None:
    """Raises Refused when the VF's port would not be in the VLAN of its standby's.

    Only where the standby's port is in Open vSwitch is its VLAN known from the domain: a Linux bridge or a libvirt
    network may lead to any.
    """
    standby = pair.standby
    if standby.kind != "bridge" or not standby.openvswitch:
        return
    if (standby.vlan, standby.trunks) != (vlan, trunks):
        raise Refused(
            f"the VF of {_named(pair.vf)} would be in {_vlan_words(vlan, trunks)} and its standby "
            f"'{standby.alias}' in {_vlan_words(standby.vlan, standby.trunks)}",
            "give both the same: <vlan> of the standby, and the VF's vfmigrate metadata or its pool",
        )


def _vlan_words(vlan: Optional[int], trunks: tuple[int, ...]) -> str:
    if trunks:
        return f"a trunk of VLANs {' '.join(map(str, trunks))}"
    return f"VLAN {vlan}" if vlan is not None else "no VLAN"
