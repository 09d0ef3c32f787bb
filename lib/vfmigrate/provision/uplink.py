# SPDX-License-Identifier: GPL-2.0-or-later
"""The uplink of a pool: which device it is, what it needs, and whether it may become a port of the bridge.

Frames that arrive at a port of a bridge go to the switch and not to the host: a host that is reached by an address of
the uplink is cut off when the uplink is plugged. Frames of a VLAN that has a device on the uplink go to that device and
not to the switch (__netif_receive_skb_core() in the kernel's net/core/dev.c asks for a VLAN device first): the guests
of that VLAN are cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import ClaimStore
from vfmigrate.config.pool import PLUG, Pool
from vfmigrate.converge.observe import Host
from vfmigrate.converge.plan import Step, Verb
from vfmigrate.converge.uplinks import physical_port
from vfmigrate.errors import HostError, Refused
from vfmigrate.host.links import Link
from vfmigrate.model.pci import PciAddress
from vfmigrate.text import command, quoted

#: changes the mode before the network is configured
EARLY_UNIT = "vfmigrate-early.service"
#: the device to which the kernel module of Open vSwitch enslaves its ports
_DATAPATH = "ovs-system"


def steps(host: Host, pool: Pool, link: Link) -> list[Step]:
    """What makes a device the uplink of the pool's bridge. Raises Refused when that would harm something else."""
    present = host.ovs.bridge_of(link.name)
    if present is not None and present != pool.bridge:
        raise Refused(
            f"uplink {link.name} of pool '{pool.name}' is on bridge {present}, not on {pool.bridge}",
            f"if nothing needs it there: ovs-vsctl del-port {quoted(present)} {quoted(link.name)}",
        )
    todo = []
    if not link.up:
        todo.append(Step(Verb.BRING, f"{link.name} up", lambda host: host.links.set_up(link.index)))
    if present is None:
        _refuse_if_enslaved(host, pool, link)
        if pool.uplink_in_use != PLUG:
            _refuse_if_in_use(host, pool, link)
            _refuse_if_vlans_are_taken(host, pool, link)
        text = f"{link.name} into {pool.bridge}"
        todo.append(Step(Verb.PLUG, text, lambda host: host.ovs.add_uplink(pool.bridge, link.name)))
    return todo


def cut_off(host: Host, pool: Pool, link: Link) -> list[str]:
    """Warnings for an uplink that is on the bridge although this host uses it itself."""
    if host.ovs.bridge_of(link.name) is None:
        return []
    warnings = []
    found = host.links.addresses().get(link.index, [])
    if found:
        warnings.append(
            f"uplink {link.name} of pool '{pool.name}' is a port of {pool.bridge}, so this host does not receive what"
            f" is sent to its address {', '.join(found)}: give the address to {pool.bridge}"
        )
    warnings += [
        f"{device.name} on uplink {link.name} of pool '{pool.name}' receives all frames of VLAN {device.vlan}, so"
        f" guests of that VLAN receive none: {_move(pool, device)}"
        for device in _taken_vlans(host, pool, link)
    ]
    return warnings


def refuse_to_break_bond(host: Host, store: ClaimStore, pf: PciAddress, others: Iterable[PciAddress]) -> None:
    """Raise Refused if a change of a PF's eswitch mode would break a bond that carries guests of other PFs.

    A card joins the eswitches of two PFs while their ports are in one bond (VF-LAG), and parts them for the change.
    """
    bond = _master(host, pf)
    if bond is None:
        return
    for other in others:
        if other == pf or not host.sysfs.exists(other) or _master(host, other) != bond:
            continue
        claims = [claim for vf in host.sysfs.vfs(other) if (claim := store.get(vf)) is not None]
        if claims:
            users = ", ".join(
                f"VF {claim.vf} of PF {other} is {claim_store.holder(claim)}" for claim in claims
            )
            raise Refused(
                f"changing the eswitch of PF {pf} to switchdev would break {host.links.link(bond).name}, to which"
                f" guests are connected: {users}",
                "migrate these guests to another host, then run vfmigrate provision again",
            )


def late_for_bond(host: Host, pf: PciAddress) -> Optional[str]:
    """A warning for a PF that is in a bond already and not in switchdev mode; None for any other.

    A card joins the eswitches of the PFs of a bond (VF-LAG) when they are in switchdev mode before the bond is made.
    """
    bond = _master(host, pf)
    if bond is None:
        return None
    name = host.links.link(bond).name
    return (
        f"PF {pf} is a port of {name} already, and its eswitch is only now changed to switchdev, so the card may not"
        f" offload {name}: have the mode changed before {name} is made, at the next boot:"
        f" systemctl enable {EARLY_UNIT}"
    )


def _master(host: Host, pf: PciAddress) -> Optional[int]:
    """The index of the device to which the physical port of a PF is enslaved."""
    try:
        return physical_port(host, pf).master
    except HostError:
        return None


def _refuse_if_enslaved(host: Host, pool: Pool, link: Link) -> None:
    master = host.links.link(link.master).name if link.master is not None else _DATAPATH
    if master != _DATAPATH:
        raise Refused(
            f"uplink {link.name} of pool '{pool.name}' belongs to {master}, so it cannot be a port of {pool.bridge}",
            f"if {master} is a bond, set uplink = {master} in section [pool {pool.name}];"
            f" otherwise: ip link set {quoted(link.name)} nomaster",
        )


def _taken_vlans(host: Host, pool: Pool, link: Link) -> list[Link]:
    """The VLAN devices on an uplink that take frames of guests; one takes, and drops, them also while it is down."""
    return [
        device
        for device in host.links.vlan_devices(link.index)
        if device.vlan is not None and pool.allows_vlan(device.vlan)
    ]


def _move(pool: Pool, device: Link) -> str:
    """What to do about a VLAN device: give the bridge an interface of the VLAN in its place."""
    name = f"vlan{device.vlan}"
    port = (
        "add-port",
        pool.bridge,
        name,
        f"tag={device.vlan}",
        "--",
        "set",
        "interface",
        name,
        "type=internal",
    )
    return (
        f"to keep its addresses, move them to an internal port: {command('ovs-vsctl', *port)};"
        f" then: ip link del {quoted(device.name)}"
    )


def _refuse_if_vlans_are_taken(host: Host, pool: Pool, link: Link) -> None:
    for device in _taken_vlans(host, pool, link):
        addresses = host.links.addresses().get(device.index, [])
        has = f" (with the address {', '.join(addresses)})" if addresses else ""
        raise Refused(
            f"{device.name}{has} on uplink {link.name} of pool '{pool.name}' receives all frames of VLAN"
            f" {device.vlan}, so guests of that VLAN would receive none",
            f"{_move(pool, device)}; or take VLAN {device.vlan} out of section [pool {pool.name}]; to plug"
            f" {link.name} all the same, set uplink_in_use = plug there",
        )


def _refuse_if_in_use(host: Host, pool: Pool, link: Link) -> None:
    addresses, routes = host.links.addresses().get(link.index, []), host.links.routes(link.index)
    if not addresses and not routes:
        return
    has = f"the address {', '.join(addresses)}" if addresses else f"a route to {', '.join(routes)}"
    raise Refused(
        f"uplink {link.name} of pool '{pool.name}' has {has}, which would stop working as a port of {pool.bridge}",
        f"give it to {pool.bridge}, which is a network device too, or to another device, then run vfmigrate provision;"
        f" to plug {link.name} all the same, set uplink_in_use = plug in section [pool {pool.name}]",
    )
