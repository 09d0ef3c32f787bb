# SPDX-License-Identifier: GPL-2.0-or-later
"""Failover pairs: a VF and its virtio standby, and what is required of the two. Pure.

libvirt's `<teaming>` (https://libvirt.org/formatdomain.html#teaming-a-virtio-hostdev-nic-pair) makes QEMU unplug the
VF before a migration and plug one in after it; meanwhile net_failover in the guest uses the virtio interface
(Documentation/networking/net_failover.rst). What libvirt does not check is checked here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from html import escape
from typing import Optional

from vfmigrate.domain import device_text, pci_xml
from vfmigrate.domain.domain_xml import Domain, Standby, VfInterface
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import Refused
from vfmigrate.model import strategy
from vfmigrate.model.pci import PciAddress
from vfmigrate.text import quoted


@dataclass(frozen=True)
class Pair:
    """Both halves of a failover pair."""

    vf: VfInterface
    standby: Standby


def _label(interface: VfInterface) -> str:
    return f"MAC {interface.wanted_mac}" if interface.wanted_mac else f"VF {interface.address}"


def pair_of(domain: Domain, vf: VfInterface) -> Pair:
    """The pair that a VF with `<teaming type='transient'>` belongs to.

    Raises Refused for a pair that cannot work.
    """
    pair = f"the failover pair of {_label(vf)} in guest '{domain.name}'"
    standby = next((each for each in domain.standbys if each.alias and each.alias == vf.standby), None)
    if standby is None:
        raise Refused(
            f"{pair} has no standby: no interface with <teaming type='persistent'/> and alias '{vf.standby}'",
            f"run: vfmigrate failover show {quoted(domain.name)}",
        )
    sharing = [each for each in domain.interfaces if each.teaming and each.standby == vf.standby]
    if len(sharing) > 1:
        macs = ", ".join(_label(each) for each in sharing)
        raise Refused(
            f"{pair} shares its standby '{vf.standby}' with another: {macs}",
            "give each VF its own standby with its own alias",
        )
    if standby.model not in ("virtio", "virtio-non-transitional", "virtio-transitional"):
        raise Refused(
            f"{pair} has a standby of model '{standby.model}'",
            f"change the model to virtio: virsh edit {quoted(domain.name)}",
        )
    if vf.wanted_mac is not None and standby.mac != vf.wanted_mac:
        raise Refused(
            f"{pair} has a standby with another MAC, {standby.mac}",
            "give both the same MAC, by which the guest joins them",
        )
    return Pair(vf, standby)


def pairs(domain: Domain) -> list[Pair]:
    """Every pair of a domain. Raises Refused for one that cannot work."""
    return [pair_of(domain, each) for each in domain.interfaces if each.teaming == "transient"]


def is_half(domain: Domain, vf: VfInterface) -> bool:
    """Whether a VF of a running guest is half of a pair, or becomes one: its standby is plugged in first."""
    return vf.teaming == "transient" or has_standby(domain, vf.wanted_mac)


def has_standby(domain: Domain, mac: Optional[str]) -> bool:
    """Whether a domain has a standby with this MAC."""
    return mac is not None and any(each.mac == mac for each in domain.standbys)


def transient_device(domain: Domain, mac: str, vf: PciAddress, *, plain: bool, managed: bool) -> str:
    """The VF to plug into a pair that has none; `plain`: as a <hostdev>, else as an <interface>.

    Raises Refused when the domain has no standby with this MAC.
    """
    standby = next((each for each in domain.standbys if each.mac == mac and each.alias), None)
    if standby is None:
        raise Refused(
            f"guest '{domain.name}' has no standby with MAC {mac}",
            f"run: vfmigrate failover show {quoted(domain.name)}",
        )
    kept = next((each.device for each in domain.marks if each.mac == mac and each.device), None)
    whole = device_text.with_vf(kept, vf, mac=mac)
    if whole is not None and device_text.standby_of(whole) == standby.alias:
        return whole
    rest = f"<teaming type='transient' persistent='{escape(str(standby.alias))}'/>"
    words = f"managed='{'yes' if managed else 'no'}'"
    if plain:
        source = f"<source>{pci_xml.render(vf, with_type=False)}</source>"
        return f"<hostdev mode='subsystem' type='pci' {words}>{rest}{source}</hostdev>"
    source = f"<source>{pci_xml.render(vf)}</source>"
    return f"<interface type='hostdev' {words}><mac address='{mac}'/>{source}{rest}</interface>"


def check_strategy(domain: Domain, vf: VfInterface) -> None:
    """Raises Refused for a VF that cannot migrate by its strategy without vfmigrate migrate, or without a standby."""
    marked = strategy.named(vf.mark.strategy if vf.mark is not None else None)
    if marked.unplugged_first:
        raise Refused(
            f"the VF with {_label(vf)} of guest '{domain.name}' has strategy replug and is still plugged in",
            f"run: vfmigrate migrate {quoted(domain.name)} DESTURI, which unplugs it and plugs one in on the "
            "destination",
        )
    if marked.teamed and vf.teaming != "transient":
        raise Refused(
            f"the VF with {_label(vf)} of guest '{domain.name}' has strategy failover and no standby",
            f"run: vfmigrate failover enable {quoted(domain.name)} --standby-bridge BRIDGE; then restart the guest",
        )


def with_vlan_of_standby(domain: Domain, vf: VfInterface) -> VfInterface:
    """The VF of a pair, with the VLAN of its standby if its mark names none; other VFs unchanged."""
    standby = next((each for each in domain.standbys if each.alias and each.alias == vf.standby), None)
    mark = vf.mark or Mark(mac=vf.mac)
    if standby is None or not standby.openvswitch or mark.vlan is not None or mark.trunks:
        return vf
    return replace(vf, mark=replace(mark, vlan=standby.vlan, trunks=standby.trunks))


def check_vlan(pair: Pair, vlan: Optional[int], trunks: tuple[int, ...]) -> None:
    """Raises Refused when the ports of VF and standby would be in different VLANs.

    The domain shows the VLAN of the standby only when its port is in Open vSwitch.
    """
    standby = pair.standby
    if standby.kind != "bridge" or not standby.openvswitch:
        return
    if (standby.vlan, standby.trunks) != (vlan, trunks):
        raise Refused(
            f"the VF of {_label(pair.vf)} would be in {_vlan_text(vlan, trunks)} and its standby "
            f"'{standby.alias}' in {_vlan_text(standby.vlan, standby.trunks)}",
            "use the same VLAN for both: in <vlan> of the standby, and in the VF's vfmigrate metadata or its pool",
        )


def _vlan_text(vlan: Optional[int], trunks: tuple[int, ...]) -> str:
    if trunks:
        return f"a trunk of VLANs {' '.join(map(str, trunks))}"
    return f"VLAN {vlan}" if vlan is not None else "no VLAN"
