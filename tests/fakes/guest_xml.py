# SPDX-License-Identifier: GPL-2.0-or-later
"""Domain XML of guests with VFs of the rig's pool."""

from __future__ import annotations

from vfmigrate.model.pci import PciAddress

#: a VF of another host, as it stands in the XML of a guest that migrates here
ELSEWHERE = PciAddress(0, 0x81, 0, 2)

STANDBY = (
    "<interface type='bridge'><mac address='52:54:00:00:01:00'/><source bridge='br-data'/><vlan><tag id='42'/></vlan>"
    "<virtualport type='openvswitch'/><model type='virtio'/><teaming type='persistent'/><alias name='ua-x'/>"
    "</interface>"
)


def guest(number: int, *vfs: PciAddress, marks: str = "pool='data' vlan='42'", extra: str = "") -> str:
    """A guest with interfaces on these VFs, the nth with MAC …:<number>:<n>, and a mark for each."""
    interfaces, marked = "", ""
    for index, vf in enumerate(vfs):
        mac = f"52:54:00:00:{number:02x}:{index:02x}"
        marked += f"<v:vf mac='{mac}' {marks}/>"
        interfaces += (
            f"<interface type='hostdev' managed='yes'><mac address='{mac}'/><source><address type='pci' "
            f"domain='0x{vf.domain:04x}' bus='0x{vf.bus:02x}' slot='0x{vf.slot:02x}' function='0x{vf.function:x}'/>"
            "</source></interface>"
        )
    metadata = f"<metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'>{marked}</v:vfs></metadata>"
    uuid = f"00000000-0000-4000-8000-{number:012d}"
    return (
        f"<domain><name>guest{number}</name><uuid>{uuid}</uuid>{metadata}"
        f"<devices>{interfaces}{extra}</devices></domain>"
    )


def paired(vf: PciAddress, standby: str = STANDBY, marks: str = "pool='data' vlan='42'") -> str:
    """A guest whose VF has a standby."""
    transient = "</source><teaming type='transient' persistent='ua-x'/>"
    return (
        guest(1, vf, marks=marks)
        .replace("</source>", transient)
        .replace("</devices>", f"{standby}</devices>")
    )
