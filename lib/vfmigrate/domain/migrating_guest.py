# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that is to migrate: what decides whether another host can run it. Pure: XML in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Optional

from lxml import etree

from vfmigrate.domain import device_kinds, domain_xml, pci_topology, storage_xml, xml_parser
from vfmigrate.domain.device_kinds import DeviceFinding
from vfmigrate.domain.domain_xml import Domain, VfInterface
from vfmigrate.domain.markup import Markup
from vfmigrate.model.host_facts import HostFacts
from vfmigrate.model.strategy import Strategy

_KIB = {"KiB": 1, "MiB": 1 << 10, "GiB": 1 << 20}
# A page of 64 KiB is an ordinary one on some processors; huge ones have 1 MiB and more.
_ORDINARY_KIB = 64


@dataclass(frozen=True)
class Disk:
    """A disk of a guest."""

    #: its name in the guest, such as `vda`
    target: str
    #: `file`, `block`, `network`, `volume` …
    kind: str
    #: path on the host; None for anything but files and block devices
    path: Optional[str] = None
    cache: Optional[str] = None
    readonly: bool = False
    #: libvirt starts the guest without what is not there on the destination (startupPolicy)
    may_be_absent: bool = False

    @property
    def is_empty(self) -> bool:
        """A drive without a disk in it."""
        return self.kind in ("file", "block") and self.path is None


@dataclass(frozen=True)
class MigratingGuest:
    """A guest as it would be migrated."""

    domain: Domain
    machine: str
    arch: str
    #: `kvm` or `qemu`, as libvirt names what the guest runs on
    virt: str
    emulator: Optional[str]
    #: its <cpu>, as XML; None without one
    cpu: Optional[str]
    cpu_mode: Optional[str] = None
    memory_kib: int = 0
    #: size of the huge pages that back its memory, in KiB, 0 for the host's default; None: ordinary memory
    page_kib: Optional[int] = None
    disks: tuple[Disk, ...] = ()
    #: libvirt networks and bridges that its interfaces name
    networks: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()
    #: how many interfaces it has that are neither VFs nor their standbys
    other_interfaces: int = 0
    #: devices that do not simply migrate, besides VFs
    devices: tuple[DeviceFinding, ...] = ()
    #: VFs that cannot be unplugged from where they are in the guest: the controller, and a remedy, by their position
    obstacles: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def names_cpu(self) -> bool:
        """Whether its <cpu> spells out a model; host-passthrough does not."""
        return self.cpu is not None and "<model" in self.cpu

    @property
    def paths(self) -> list[str]:
        """The files and block devices of its disks."""
        return [disk.path for disk in self.disks if disk.path is not None]


@dataclass(frozen=True)
class GuestVf:
    """A VF of a guest, with its pool and strategy."""

    interface: VfInterface
    #: the name of its pool; None when nobody knows one
    pool: Optional[str]
    strategy: Strategy

    @property
    def label(self) -> str:
        """What messages call it."""
        if self.interface.wanted_mac is not None:
            return f"the VF with MAC {self.interface.wanted_mac}"
        return f"the VF {self.interface.address}"


def read(live: str, migratable: str) -> MigratingGuest:
    """A guest from its XML: as it runs, with every VF resolved, and as libvirt would migrate it. Raises InputError."""
    parsed = domain_xml.read(live)
    domain_xml.read(migratable)  # held to the same limits
    root = xml_parser.parse(migratable, "the domain XML")
    kind, cpu = root.find("os/type"), root.find("cpu")
    return MigratingGuest(
        domain=parsed,
        machine=kind.get("machine", "") if kind is not None else "",
        arch=kind.get("arch", "") if kind is not None else "",
        virt=root.get("type", ""),
        emulator=root.findtext("devices/emulator"),
        cpu=etree.tostring(cpu, encoding="unicode", with_tail=False) if cpu is not None else None,
        cpu_mode=cpu.get("mode") if cpu is not None else None,
        memory_kib=parsed.memory_kib,
        page_kib=_page_kib(root),
        disks=tuple(_disk(each) for each in root.findall("devices/disk") if each.find("target") is not None),
        networks=_sources(root, "network"),
        bridges=_sources(root, "bridge"),
        other_interfaces=sum(
            each.get("type") != "hostdev" and each.find("teaming") is None and not _has_mark(each, parsed)
            for each in root.findall("devices/interface")
        ),
        devices=tuple(device_kinds.findings(root.find("devices"))),
        obstacles=_obstacles(live, parsed),
    )


def _page_kib(root: etree._Element) -> Optional[int]:
    if root.find("memoryBacking/hugepages") is None:
        return None
    page = root.find("memoryBacking/hugepages/page")
    size = page.get("size", "") if page is not None else ""
    unit = _KIB.get(page.get("unit", "KiB")) if page is not None else None
    return int(size) * unit if size.isdecimal() and unit is not None else 0


def page_sizes(capabilities: str) -> list[int]:
    """The sizes of huge pages that a host can have, in KiB, by libvirt's XML of its capabilities."""
    root = xml_parser.parse(capabilities, "libvirt's XML of the host's capabilities")
    sizes = {
        int(each.get("size", "0")) for each in root.findall("host/cpu/pages") if each.get("unit") == "KiB"
    }
    return sorted(size for size in sizes if size > _ORDINARY_KIB)


def _has_mark(interface: etree._Element, domain: Domain) -> bool:
    mac = interface.find("mac")
    return mac is not None and any(mark.mac == mac.get("address", "").lower() for mark in domain.marks)


def _obstacles(live: str, domain: Domain) -> dict[int, tuple[str, str]]:
    root = Markup(live).root
    if not pci_topology.has_pci_express(root):
        return {}
    devices = list(root.all("devices/*"))
    found = {}
    for interface in domain.interfaces:
        device = devices[interface.position]
        obstacle = pci_topology.obstacle(root, device)
        if obstacle is not None:
            found[interface.position] = (obstacle, pci_topology.remedy(device))
    return found


def _disk(element: etree._Element) -> Disk:
    driver, target, source = element.find("driver"), element.find("target"), element.find("source")
    return Disk(
        target=target.get("dev", "") if target is not None else "",
        kind=element.get("type", ""),
        path=storage_xml.disk_path(element),
        cache=driver.get("cache") if driver is not None else None,
        readonly=element.find("readonly") is not None,
        may_be_absent=source is not None and source.get("startupPolicy") in ("optional", "requisite"),
    )


def _sources(root: etree._Element, kind: str) -> tuple[str, ...]:
    found = {
        element.get(kind, "")
        for element in root.findall(f"devices/interface[@type='{kind}']/source[@{kind}]")
    }
    return tuple(sorted(found - {""}))


def vfs(guest: MigratingGuest, source: Optional[HostFacts]) -> list[GuestVf]:
    """The VFs among a guest's devices; `source` are the facts of the host where it is.

    The pool is what the metadata says, else that of the VF's physical function.
    """
    found = []
    for interface in guest.domain.interfaces:
        if interface.form == "network" and interface.mark is None:
            continue  # an interface of any other network
        pool = interface.mark.pool if interface.mark is not None else None
        known = source.vf(str(interface.address)) if source and interface.address else None
        if pool is None and known is not None:
            pool = known[0].name
        found.append(GuestVf(interface, pool, interface.strategy))
    return found


def comparable(cpu: str) -> str:
    """A guest's <cpu> as libvirt compares it: topology and the like say nothing of what a host can give."""
    element = xml_parser.parse(cpu, "the XML of a CPU")
    for child in list(element):
        if child.tag not in ("model", "vendor", "feature"):
            element.remove(child)
    return etree.tostring(element, encoding="unicode")


def host_model(capabilities: str) -> Optional[str]:
    """The CPU of mode host-model in a domain's capabilities, as a <cpu>."""
    root = xml_parser.parse(capabilities, "libvirt's XML of a domain's capabilities")
    mode = root.find("cpu/mode[@name='host-model'][@supported='yes']")
    if mode is None or mode.find("model") is None:
        return None
    cpu = etree.Element("cpu", {"mode": "custom", "match": "exact"})
    for child in mode:
        if child.tag in ("model", "vendor", "feature"):
            kept = etree.SubElement(
                cpu, child.tag, {key: value for key, value in child.items() if key != "fallback"}
            )
            kept.text = child.text
    return etree.tostring(cpu, encoding="unicode")
