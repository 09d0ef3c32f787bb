# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest is about to migrate. What vdsm takes from these hooks is a veto, no XML.

Both hooks may run several times for one migration (vdsm tries again while the destination is busy), and change
nothing that a second run would not find as it should be.
"""

from __future__ import annotations

import contextlib
from xml.etree import ElementTree as ET

from vfmigrate_vdsm import handover, marks, properties, vnic
from vfmigrate_vdsm.daemon import Daemon, PluginError


def before_vm_migrate_source(daemon: Daemon) -> None:
    """Refuse what cannot leave, before the destination has begun to prepare."""
    domain = handover.read_xml()
    if domain is None:
        return
    moving = list(daemon.ask("departure", domain=handover.vm_id())["vfs"])
    if moving and domain.find("devices/iommu") is not None:
        raise PluginError("the guest has a virtual IOMMU, with which QEMU does not migrate VFs")
    marked = {mark.vf for mark in marks.read(domain)}
    for vf in moving:
        if vf not in marked:
            raise PluginError(
                f"the guest's metadata does not contain VF {vf} yet, and the destination needs that; "
                "try again in a minute, or on this host run: vfmigrate reconcile"
            )


def before_vm_migrate_destination(daemon: Daemon) -> None:
    """Claim here the VFs at the source's addresses, which vdsm has taken for this host's own before it called us."""
    domain = handover.read_xml()
    if domain is None:
        return
    by_mac = {mark.mac: mark for mark in marks.read(domain)}
    uuid = domain.findtext("uuid") or handover.vm_id()
    try:
        for interface in vnic.interfaces(domain):
            mark = by_mac.get(vnic.mac(interface)) if vnic.vf(interface) is not None else None
            if mark is not None and mark.strategy == properties.VFIO:
                _claim_arrival(daemon, domain, uuid, mark, str(vnic.vf(interface)))
    except PluginError:
        with contextlib.suppress(
            PluginError
        ):  # the first reason is the one to report; claims that stay expire
            daemon.ask("give_back", domain=uuid)
        raise


def _claim_arrival(daemon: Daemon, domain: ET.Element, uuid: str, mark: marks.Mark, address: str) -> None:
    daemon.ask(
        "claim",
        domain=uuid,
        name=domain.findtext("name"),
        mac=mark.mac,
        strategy=mark.strategy,
        pool=mark.fact("pool"),
        vf=address,
        vlan=mark.number("vlan"),
        incoming=True,
        psid=mark.fact("psid"),
        firmware=mark.fact("firmware"),
        msix=mark.number("msix"),
    )
