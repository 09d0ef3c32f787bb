# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests, as an administrator would write their domains: the XML, and where they show signs of life."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from tests.testbed import fabric
from tests.testbed.namespace import RUN

MEMORY_MIB = 64
#: where a host has what guests boot
FILES = "/var/lib/guest"
POOL = "data"

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
{metadata}  <memory unit='MiB'>{memory}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{files}/guest-kernel</kernel>
    <initrd>{files}/guest-initrd</initrd>
    <cmdline>console=ttyS0 quiet tsc=reliable no_timer_check bonding.max_bonds=0 {network}{options}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
{ports}{interfaces}    <serial type='file'><source path='/testbed/{console}' append='on'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""

PORT = "    <controller type='pci' model='pcie-root-port'/>\n"
# libvirt makes the ports that a guest needs, and none that is free for a device plugged in later.
FREE_PORT = """\
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' model='pcie-root-port'/>
"""

METADATA = """\
  <metadata>
    <vfmigrate:vfs xmlns:vfmigrate='urn:vfmigrate:domain:1'>
{vfs}    </vfmigrate:vfs>
  </metadata>
"""

VF_INTERFACE = """\
    <interface type='hostdev' managed='yes'>
      <mac address='{mac}'/>
      <source><address type='pci' domain='0x{domain}' bus='0x{bus}' slot='0x{slot}'
      function='0x{function}'/></source>
    </interface>
"""

NETWORK_INTERFACE = """\
    <interface type='network'>
      <mac address='{mac}'/>
      <source network='{network}'/>
    </interface>
"""


BRIDGE_INTERFACE = """\
    <interface type='bridge'>
      <mac address='{mac}'/>
      <source bridge='br-data'/>
      <vlan><tag id='{vlan}'/></vlan>
      <virtualport type='openvswitch'/>
      <model type='virtio'/>
    </interface>
"""


@dataclass(frozen=True)
class Nic:
    """A network interface of a guest: a VF, or a virtio NIC.

    A VF is named by its address on the host the guest starts on, or by the libvirt network that gives one.
    """

    mac: str
    vlan: int
    number: int
    vf: Optional[str] = None
    network: Optional[str] = None

    @property
    def address(self) -> str:
        """The IPv4 address that the guest gives it."""
        return fabric.guest_address(self.vlan, self.number)

    def xml(self) -> str:
        """Its element in the domain."""
        if self.network is not None:
            return NETWORK_INTERFACE.format(mac=self.mac, network=self.network)
        if self.vf is None:
            return BRIDGE_INTERFACE.format(mac=self.mac, vlan=self.vlan)
        domain, bus, rest = self.vf.split(":")
        slot, function = rest.split(".")
        return VF_INTERFACE.format(mac=self.mac, domain=domain, bus=bus, slot=slot, function=function)


@dataclass(frozen=True)
class Guest:
    """A guest; `number` makes its UUID.

    With `bonded`, it makes an active-backup bond of its first two NICs, the first being primary, with the first's
    address; its VF is unplugged for a migration. With `churn_mib`, it writes that much memory over and over.
    """

    name: str
    number: int
    nics: Sequence[Nic] = field(default_factory=tuple)
    #: NICs that it knows and does not have when it starts: plugged in later
    later: Sequence[Nic] = field(default_factory=tuple)
    bonded: bool = False
    churn_mib: int = 0
    #: more words for its kernel
    options: str = ""
    #: something may be plugged in beside the NICs that it has
    roomy: bool = False

    @property
    def vf_nics(self) -> list[Nic]:
        """Its NICs that are VFs."""
        return [nic for nic in (*self.nics, *self.later) if nic.vf is not None or nic.network is not None]

    @property
    def console(self) -> Path:
        """The file with what the guest prints, on whichever host it runs."""
        return RUN / "shared" / f"{self.name}.console"

    @property
    def uuid(self) -> str:
        """Its UUID."""
        return f"7f0000a0-0000-4000-8000-{self.number:012}"

    def xml(self) -> str:
        """The domain's XML."""
        strategy = " strategy='replug'" if self.bonded else ""
        vfs = "".join(
            f"      <vfmigrate:vf mac='{nic.mac}' pool='{POOL}' vlan='{nic.vlan}'{strategy}/>\n"
            for nic in self.vf_nics
        )
        return self.domain(METADATA.format(vfs=vfs) if vfs else "", "".join(nic.xml() for nic in self.nics))

    def domain(self, metadata: str, interfaces: str) -> str:
        """The domain's XML with these elements in it."""
        return DOMAIN.format(
            name=self.name,
            uuid=self.uuid,
            metadata=metadata,
            memory=MEMORY_MIB,
            network=self._network(),
            files=FILES,
            options=f" {self.options}" if self.options else "",
            ports=FREE_PORT + len(self.nics) * PORT if self.roomy else FREE_PORT if self.later else "",
            interfaces=interfaces,
            console=self.console.name,
        )

    def _network(self) -> str:
        """The words of the kernel command line about the guest's network and its load."""
        if self.bonded:
            primary, other = self.nics
            told = f"bond={primary.mac},{other.mac},{primary.address}/24"
        else:
            told = "net=" + ",".join(f"{nic.mac}={nic.address}/24" for nic in (*self.nics, *self.later))
        return f"{told} churn={self.churn_mib}" if self.churn_mib else told

    def ticks(self) -> int:
        """How many seconds have passed for the guest by its console; 0 when that is empty."""
        return last_tick(self._told())

    def nics_told(self) -> str:
        """The last line on its console about the NICs that it sees, after the number of the tick before it."""
        return last_nics(self._told())

    def _told(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""


# One VF, the second of host A: another host gives the first that is free, so the address changes.
TRAVELLER = Guest("traveller", 1, (Nic(mac="52:54:00:00:42:01", vlan=42, number=11, vf="0000:01:10.2"),))


def last_tick(console: str) -> int:
    """The number in the last whole tick line of a console, plus one; 0 without any."""
    found = re.findall(r"^TICK (\d+) uptime=\S+.*\n", console.replace("\r", ""), re.MULTILINE)
    return int(found[-1]) + 1 if found else 0


def last_nics(console: str) -> str:
    """The last whole line of a console about NICs; "" without any."""
    found = re.findall(r"^NICS (\d+.*)\n", console.replace("\r", ""), re.MULTILINE)
    return found[-1] if found else ""
