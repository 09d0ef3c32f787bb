# SPDX-License-Identifier: GPL-2.0-or-later
"""The faults that scenario `check` plants on the test hosts, and how each is repaired.

A fault is planted by a shell script on one of the hosts, or by the definition of a guest. `vfmigrate check` must report
it with the right side, check and severity, and a text that names what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.testbed.guest import VF_INTERFACE
from tests.testbed.host import PF
from tests.testbed.product import CONFIG_PATH
from tests.testbed.provision import BRIDGE

ALIASES = "/lib/modules/$(uname -r)/modules.alias"
HOOK = "/etc/libvirt/hooks/qemu.d/50-vfmigrate"
RESTART = "systemctl restart vfmigrated.service"
KEPT = "/run/vfmigrate.conf.kept"
ORPHAN = "99990000-0000-4000-8000-000000000001"

#: reserves every free VF of the pool, as the agent of an orchestrator does, for a guest that never starts
TAKE_ALL = f"""python3 - <<'END'
from vfmigrate.rpc import protocol
for number in range(4):
    protocol.ask("claim", {{"domain": "{ORPHAN}", "name": "orphan", "mac": f"52:54:00:99:00:0{{number}}",
                           "strategy": "replug", "pool": "data", "vlan": 42}})
END"""
GIVE_BACK = f"""python3 - <<'END'
from vfmigrate.rpc import protocol
protocol.ask("give_back", {{"domain": "{ORPHAN}"}})
END"""


def configured(change: str) -> str:
    """A script that changes the configuration with sed and restarts the daemon."""
    return f"cp {CONFIG_PATH} {KEPT} && sed -i '{change}' {CONFIG_PATH} && {RESTART}"


MENDED = f"mv {KEPT} {CONFIG_PATH} && {RESTART}"


@dataclass(frozen=True)
class Expected:
    """A result that must be in the output of `check`; its text contains `names`."""

    side: str
    check: str
    severity: str
    names: str

    def line(self) -> tuple[str, str, str]:
        """Side, check and severity, as in the JSON output."""
        return (self.side, self.check, self.severity)


@dataclass(frozen=True)
class Fault:
    """A fault of a host."""

    name: str
    host: str
    plant: str
    mend: str
    expected: Expected


HOST_FAULTS: Sequence[Fault] = (
    Fault(
        "no bridge",
        "b",
        f"ovs-vsctl --timeout=20 del-br {BRIDGE}",
        "vfmigrate provision",
        Expected("destination", "bridge", "error", BRIDGE),
    ),
    Fault("no free VF", "b", TAKE_ALL, GIVE_BACK, Expected("destination", "free-vf", "error", "orphan")),
    Fault(
        "no such pool",
        "b",
        configured("s/^.pool data.$/[pool other]/"),
        f"{MENDED}; for verb in destroy undefine; do virsh net-$verb vfmigrate-other; done",
        Expected("destination", "pool", "error", "'data'"),
    ),
    Fault(
        "other VLANs",
        "b",
        configured("s/^vlans = .*/vlans = 100-101/"),
        MENDED,
        Expected("destination", "vlan", "error", "VLAN 42"),
    ),
    Fault(
        "the switch daemon does not run",
        "b",
        # stopping its unit would stop the database, too
        "ovs-appctl --target=ovs-vswitchd exit",
        "systemctl start ovs-vswitchd.service openvswitch-switch.service",
        Expected("destination", "openvswitch", "error", "ovs-vswitchd"),
    ),
    Fault(
        "no offload",
        "b",
        "ovs-vsctl --no-wait set Open_vSwitch . other_config:hw-offload=false",
        "ovs-vsctl --no-wait set Open_vSwitch . other_config:hw-offload=true",
        Expected("destination", "offload", "warning", "offload"),
    ),
    Fault(
        "another firmware",
        "b",
        "cp /sys/module/cx7sim/parameters/fw_running /run/fw.kept && "
        "printf %s 28.39.2048 > /sys/module/cx7sim/parameters/fw_running",
        "tr -d '\\n' < /run/fw.kept > /sys/module/cx7sim/parameters/fw_running",
        Expected("pair", "card", "error", "28.39.2048"),
    ),
    Fault(
        "firmware too old",
        "b",
        configured("$a firmware_min = 99.0.0"),
        MENDED,
        Expected("destination", "cards", "error", "99.0.0"),
    ),
    Fault(
        "the card is in legacy mode",
        "b",
        f"devlink dev eswitch set pci/{PF} mode legacy",
        "vfmigrate provision",
        Expected("destination", "cards", "error", "legacy"),
    ),
    Fault(
        "no variant driver",
        "b",
        f"cp {ALIASES} /run/aliases.kept && sed -i '/igb_vfio_pci/d' {ALIASES}",
        f"cp /run/aliases.kept {ALIASES}",
        Expected("destination", "cards", "error", "VFIO driver"),
    ),
    Fault(
        "no hook",
        "b",
        f"chmod -x {HOOK}",
        f"chmod +x {HOOK}",
        Expected("destination", "hook", "error", "hook"),
    ),
    Fault(
        "the daemon is down",
        "b",
        "systemctl stop vfmigrated.socket vfmigrated.service",
        "systemctl start vfmigrated.socket vfmigrated.service",
        Expected("destination", "daemon", "error", "vfmigrated"),
    ),
    Fault(
        "the pool's network is gone",
        "b",
        # Stopped, because a running daemon starts it again.
        "systemctl stop vfmigrated.socket vfmigrated.service; virsh net-destroy vfmigrate-data",
        "systemctl start vfmigrated.socket vfmigrated.service; vfmigrate reconcile",
        Expected("destination", "daemon", "error", "network"),
    ),
    Fault(
        "a free VF is not migratable",
        "b",
        "devlink port function set $(devlink port show | sed -n 's/^\\(pci[^ ]*\\): .* vfnum 3 .*/\\1/p') "
        "migratable disable",
        "vfmigrate reconcile",
        Expected("destination", "vf-ready", "warning", "not migratable"),
    ),
    Fault(
        "another guest has the name",
        "b",
        "printf '<domain type=\"qemu\"><name>check-guest</name><memory>1024</memory><os><type>hvm</type></os></domain>'"
        " | virsh define /dev/stdin",
        "virsh undefine check-guest",
        Expected("destination", "name", "error", "check-guest"),
    ),
    Fault(
        "the source cannot resolve the destination",
        "a",
        "cp /etc/hosts /run/hosts.kept && sed -i '/host-b/d' /etc/hosts",
        "cp /run/hosts.kept /etc/hosts",
        Expected("pair", "address", "error", "host-b"),
    ),
)


FLAWED = """\
<domain type='qemu'>
  <name>flawed</name>
  <metadata>
    <vfmigrate:vfs xmlns:vfmigrate='urn:vfmigrate:domain:1'>
      <vfmigrate:vf mac='{mac}' pool='data' vlan='42'/>
    </vfmigrate:vfs>
  </metadata>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/><ioapic driver='qemu'/></features>
  <cpu mode='custom' match='exact'><model>{cpu}</model></cpu>
  <devices>
    <emulator>{emulator}</emulator>
    {devices}
    <memballoon model='none'/>
  </devices>
</domain>
"""
FLAWED_MAC = "52:54:00:00:42:61"


@dataclass(frozen=True)
class Flaw:
    """A fault of a guest called `flawed`: parts of its definition, and a script that prepares the source."""

    name: str
    devices: str
    expected: Expected
    cpu: str = "qemu64"
    plant: str = "true"

    def xml(self, address: str, emulator: str) -> str:
        """The guest's definition; `address` is that of a VF of the source."""
        domain, bus, rest = address.split(":")
        slot, function = rest.split(".")
        vf = VF_INTERFACE.format(mac=FLAWED_MAC, domain=domain, bus=bus, slot=slot, function=function)
        pair = vf.replace("</interface>", "<teaming type='transient' persistent='ua-none'/></interface>")
        devices = self.devices.format(vf=vf, pair=pair)
        return FLAWED.format(mac=FLAWED_MAC, devices=devices, cpu=self.cpu, emulator=emulator)


GUEST_FLAWS: Sequence[Flaw] = (
    Flaw(
        "a disk that only the source has",
        "<disk type='file'><source file='/srv/only-here'/><target dev='vda' bus='virtio'/></disk>",
        Expected("pair", "disk", "error", "/srv/only-here"),
        plant="truncate -s 1M /srv/only-here",
    ),
    Flaw(
        "a disk on a file system of its own",
        "<disk type='file'><source file='/etc/hostname'/><target dev='vdb' bus='virtio'/></disk>",
        Expected("pair", "disk", "error", "/etc/hostname"),
    ),
    Flaw(
        "a CPU that the destination does not have",
        "",
        Expected("destination", "cpu", "error", "CPU"),
        cpu="Icelake-Server",
    ),
    Flaw(
        "a network that the destination does not have",
        "<interface type='network'><source network='only-here'/></interface>",
        Expected("destination", "networks", "error", "only-here"),
    ),
    Flaw(
        "a bridge that the destination does not have",
        "<interface type='bridge'><source bridge='br-only-here'/><virtualport type='openvswitch'/></interface>",
        Expected("destination", "networks", "error", "br-only-here"),
        plant="ovs-vsctl --timeout=20 --may-exist add-br br-only-here",
    ),
    Flaw(
        "a virtual IOMMU",
        "<iommu model='intel'/>{vf}",
        Expected("source", "viommu", "error", "IOMMU"),
    ),
    Flaw(
        "a failover pair without its standby",
        "{pair}",
        Expected("pair", "strategy", "error", "no standby"),
    ),
)
CLEAR_FLAWS = "rm -f /srv/only-here; ovs-vsctl --timeout=20 --if-exists del-br br-only-here"
