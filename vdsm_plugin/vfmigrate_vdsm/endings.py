# SPDX-License-Identifier: GPL-2.0-or-later
"""After a VF was plugged in or could not be, was unplugged, or its guest ended. Nothing can be refused here."""

from __future__ import annotations

import os
from xml.etree import ElementTree as ET

from vfmigrate_vdsm import handover, marks, properties, vnic
from vfmigrate_vdsm.daemon import Daemon

DEVICES = "/sys/bus/pci/devices"


def after_nic_hotplug(daemon: Daemon) -> None:
    """The guest has the VF: its claim stays as long as it does."""
    mac = _vf_of_call()
    if mac is not None and not daemon.ask("keep", domain=handover.vm_id(), mac=mac)["kept"]:
        handover.log(f"the VF for MAC {mac} was plugged, but vfmigrated has no claim on it")


def give_back(daemon: Daemon) -> None:
    """The guest does not have the VF, or has it no more."""
    mac = _vf_of_call()
    if mac is not None:
        _log_given_back(daemon.ask("give_back", domain=handover.vm_id(), mac=mac)["vfs"])


def after_vm_destroy(daemon: Daemon) -> None:
    """The guest is gone; libvirt's hook has usually given its VFs back before."""
    domain = handover.read_xml()
    if domain is not None:
        _tell_of_other_addresses(domain)
    _log_given_back(daemon.ask("give_back", domain=handover.vm_id())["vfs"])


def _tell_of_other_addresses(domain: ET.Element) -> None:
    """Say why a guest could not come here whose VF has an address that this host does not have.

    vdsm looks the source's address up among this host's devices before it runs any hook, and fails. This is the first
    hook after that: with what vdsm was handed, when the source has it give the guest up.
    """
    by_mac = {mark.mac: mark for mark in marks.read(domain) if mark.strategy == properties.VFIO}
    for interface in vnic.interfaces(domain):
        address = vnic.vf(interface)
        mark = by_mac.get(vnic.mac(interface)) if address is not None else None
        if mark is not None and not os.path.lexists(f"{DEVICES}/{address}"):
            handover.log(
                f"guest '{domain.findtext('name')}' comes from a host on which its VF is {address}, and this host has "
                f"no such device: vdsm needs the VFs of pool '{mark.fact('pool')}' at the same addresses on all hosts; "
                "see docs/ovirt.md"
            )


def _vf_of_call() -> str | None:
    """The MAC of the vNIC at hand when it is on a VF: the standby of a failover pair has the same MAC."""
    interface = handover.read_xml()
    if interface is None or interface.tag != "interface":
        return None
    on_vf = interface.get("type") == "hostdev" or os.environ.get(properties.STRATEGY) == properties.VFIO
    return vnic.mac(interface) if on_vf else None


def _log_given_back(vfs: list[str]) -> None:
    if vfs:
        handover.log(f"given back: {', '.join(vfs)}")
