# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest is about to start, or to get another vNIC: VFs are claimed, and the XML is changed to what libvirt needs."""

from __future__ import annotations

import os
from xml.etree import ElementTree as ET

from vfmigrate_vdsm import handover, properties, vnic
from vfmigrate_vdsm.daemon import Daemon


def before_device_create(daemon: Daemon) -> None:
    """A vNIC with strategy vfio becomes a VF of its pool."""
    asked = properties.read(os.environ)
    interface = handover.read_xml()
    if asked is None or interface is None or interface.tag != "interface":
        return
    if _take_along(daemon, interface, asked, plug=False):
        handover.write_xml(interface)


def before_vm_start(daemon: Daemon) -> None:
    """VFs that the engine chose: the tag goes to the port, and pairs must be such that they can work."""
    domain = handover.read_xml()
    if domain is None:
        return
    name = domain.findtext("name") or ""
    vnic.check_pairs(vnic.interfaces(domain))
    changed = False
    for interface, address in vnic.engine_vfs(domain):
        changed |= _claim_engines(daemon, interface, address, name=name)
    if changed:
        handover.write_xml(domain)


def before_nic_hotplug(daemon: Daemon) -> None:
    """As at a start, for one vNIC; libvirt runs no hook of its own, so the port is plugged now."""
    asked = properties.read(os.environ)
    interface = handover.read_xml()
    if interface is None or interface.tag != "interface":
        return
    address = vnic.vf(interface)
    if asked is not None:
        changed = _take_along(daemon, interface, asked, plug=True)
    else:
        changed = address is not None and _claim_engines(daemon, interface, address, plug=True)
    if changed:
        handover.write_xml(interface)


def _take_along(daemon: Daemon, interface: ET.Element, asked: properties.Properties, *, plug: bool) -> bool:
    """Turn a vNIC into a VF of its pool; False when it is one already, as in a guest that was saved."""
    if vnic.vf(interface) is not None and not vnic.of_engine(interface):
        return False
    vnic.check_convertible(interface)
    answer = daemon.ask(
        "claim",
        domain=handover.vm_id(),
        mac=vnic.mac(interface),
        strategy=properties.VFIO,
        pool=asked.pool,
        vlan=asked.vlan,
        plug=plug,
    )
    asked_mtu, port_mtu = vnic.mtu(interface), answer["mtu"] or 1500
    dropped = vnic.convert(interface, str(answer["vf"]))
    left_out = f"; left out, since a VF has no such thing: {', '.join(dropped)}" if dropped else ""
    handover.log(f"MAC {vnic.mac(interface)} gets VF {answer['vf']} of pool {answer['pool']}{left_out}")
    if asked_mtu is not None and asked_mtu > port_mtu:
        handover.log(
            f"the network's MTU is {asked_mtu}, the port's {port_mtu}: see mtu of [pool {answer['pool']}]"
        )
    return True


def _claim_engines(
    daemon: Daemon, interface: ET.Element, address: str, *, name: str = "", plug: bool = False
) -> bool:
    """Claim the VF that the engine chose; True when the XML had to change. A VF of no pool of ours is left alone."""
    answer = daemon.ask(
        "claim",
        domain=handover.vm_id(),
        name=name or None,
        mac=vnic.mac(interface),
        strategy="failover" if vnic.persistent(interface) is not None else "replug",
        vf=address,
        vlan=vnic.tag(interface),
        unmanaged=True,
        plug=plug,
    )
    if not answer or interface.find("vlan") is None:
        return False
    vnic.take_out_vlan(interface)
    return True
