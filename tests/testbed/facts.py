# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a host, from the kernel, devlink and Open vSwitch, never from vfmigrate."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from tests.testbed.host import PF, Host

SCRIPT = f"""
echo '== vfs'
for link in /sys/bus/pci/devices/{PF}/virtfn*; do
    [ -e "$link" ] || continue
    driver=none
    [ -e "$link/driver" ] && driver=$(readlink "$link/driver")
    echo "${{link##*virtfn}} $(readlink "$link") $driver"
done
echo '== devlink'
devlink -j port show
echo '== ports'
ovs-vsctl --timeout=20 --format=json --columns=name,tag list Port
echo '== links'
ip -j link show
echo '== claims'
ls /run/vfmigrate/claims 2> /dev/null || true
echo '== state'
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "openvswitch $(cat /run/openvswitch/ovs*.pid 2> /dev/null | tr '\\n' ' ')"
echo "product $(stat --format=%i-%Z /usr/bin/vfmigrate /usr/sbin/vfmigrated 2> /dev/null | tr '\\n' ' ')"
echo "configuration $(find /etc/vfmigrate /etc/libvirt/hooks /etc/libvirt/*.conf /usr/libexec/vdsm -type f \\
    2> /dev/null | sort | xargs -r cksum | cksum)"
echo "definitions $(find /etc/libvirt/qemu -name '*.xml' | sort | tr '\\n' ' ')"
echo "card $(cat /sys/module/cx7sim/parameters/* 2> /dev/null | cksum)"
"""

#: what a difference in a line of the section `state` means
STATE = {
    "boot": "it was booted again",
    "openvswitch": "Open vSwitch was restarted",
    "product": "vfmigrate was installed again or removed",
    "configuration": "configuration files or hooks changed",
    "definitions": "the definitions of guests or networks changed",
    "card": "the card's firmware was changed",
}


@dataclass(frozen=True)
class Vf:
    """A virtual function of the card."""

    index: int
    address: str
    driver: str
    representor: str
    mac: str
    migratable: bool


@dataclass(frozen=True)
class Facts:
    """A host at one moment: its VFs by PCI address, the ports of its bridges with their tags, the claims' files.

    `state` has what no guest changes: a difference there means that the host is no longer as it was provisioned.
    """

    vfs: dict[str, Vf] = field(default_factory=dict)
    ports: dict[str, Optional[int]] = field(default_factory=dict)
    links_up: frozenset[str] = frozenset()
    claims: frozenset[str] = frozenset()
    state: Mapping[str, str] = field(default_factory=dict, compare=False)

    def without(self, addresses: Collection[str]) -> Facts:
        """The same without these VFs and all that belongs to them."""
        representors = {self.vfs[address].representor for address in addresses}
        return Facts(
            vfs={address: vf for address, vf in self.vfs.items() if address not in addresses},
            ports={name: tag for name, tag in self.ports.items() if name not in representors},
            links_up=self.links_up - representors,
            claims=self.claims - {f"{address}.json" for address in addresses},
            state=self.state,
        )


def look(host: Host) -> Facts:
    """Ask a host for its facts."""
    return parse(host.run(SCRIPT))


def parse(text: str) -> Facts:
    """The facts in what SCRIPT prints."""
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("== "):
            sections[line[3:]] = lines = []
        else:
            lines.append(line)
    links = json.loads("\n".join(sections["links"]))
    return Facts(
        vfs=parse_vfs(sections["vfs"], json.loads("\n".join(sections["devlink"]))["port"]),
        ports=parse_ports(json.loads("\n".join(sections["ports"]))),
        links_up=frozenset(link["ifname"] for link in links if "UP" in link["flags"]),
        claims=frozenset(name for name in sections["claims"] if not name.startswith(".")),
        state={name: value for name, _, value in (line.partition(" ") for line in sections["state"])},
    )


def parse_vfs(lines: list[str], ports: dict[str, Any]) -> dict[str, Vf]:
    """VFs from the lines "INDEX ../ADDRESS DRIVER-LINK" and devlink's ports."""
    functions = {port["vfnum"]: port for port in ports.values() if port.get("flavour") == "pcivf"}
    vfs = {}
    for line in lines:
        number, link, driver = line.split()
        port = functions.get(int(number), {})
        function = port.get("function", {})
        address = link.rpartition("/")[2]
        vfs[address] = Vf(
            index=int(number),
            address=address,
            driver=driver.rpartition("/")[2],
            representor=port.get("netdev", ""),
            mac=function.get("hw_addr", ""),
            migratable=function.get("migratable") == "enable",
        )
    return vfs


def parse_ports(table: dict[str, Any]) -> dict[str, Optional[int]]:
    """Ports and their tags from ovs-vsctl's JSON: an absent tag is an empty set there."""
    return {name: tag if isinstance(tag, int) else None for name, tag in table["data"]}


LeftBehind = dict[str, list[str]]


def left_behind(before: Facts, after: Facts) -> LeftBehind:
    """What a scenario left on a host, by kind, in words; every list is empty on a clean host."""
    changed: LeftBehind = {
        "ports": [],
        "claims": [],
        "drivers": [],
        "macs": [],
        "migratable": [],
        "links": [],
    }
    for name in sorted(after.ports.keys() | before.ports.keys()):
        if name not in before.ports:
            changed["ports"].append(name)
        elif name not in after.ports:
            changed["ports"].append(f"{name} is gone")
        elif after.ports[name] != before.ports[name]:
            changed["ports"].append(f"{name}: tag {before.ports[name]} became {after.ports[name]}")
    changed["claims"] = sorted(after.claims - before.claims)
    changed["links"] = sorted(after.links_up ^ before.links_up)
    for address, vf in after.vfs.items():
        was = before.vfs.get(address)
        if was is None:
            changed["drivers"].append(f"{address} is new")
            continue
        for kind, old, new in (
            ("drivers", was.driver, vf.driver),
            ("macs", was.mac, vf.mac),
            ("migratable", was.migratable, vf.migratable),
        ):
            if old != new:
                changed[kind].append(f"{address}: {old} became {new}")
    return changed


def is_clean(changed: LeftBehind) -> bool:
    """Whether nothing was left behind."""
    return not any(changed.values())


def changes(before: Facts, after: Facts) -> list[str]:
    """Why a host is no longer as it was provisioned, in words; empty when it is."""
    return [why for name, why in STATE.items() if before.state.get(name) != after.state.get(name)]
