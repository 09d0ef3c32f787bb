# SPDX-License-Identifier: GPL-2.0-or-later
"""What is read of a guest that is to move."""

from __future__ import annotations

from typing import Optional

import pytest

from tests.unit.preflight.snapshots import HELD, host
from vfmigrate.domain import migrating_guest
from vfmigrate.domain.migrating_guest import Disk
from vfmigrate.errors import InputError

XML = """<domain type='kvm'><name>g</name><uuid>22222222-2222-4222-8222-222222222222</uuid>
  <metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'>
    <v:vf mac='52:54:00:00:00:03' pool='other' strategy='replug'/></v:vfs></metadata>
  <memory unit='KiB'>2048</memory><currentMemory unit='KiB'>1024</currentMemory>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <cpu mode='custom' match='exact' check='full'><model fallback='forbid'>EPYC</model>
    <topology sockets='1'/><feature policy='require' name='x2apic'/></cpu>
  <devices><emulator>/usr/bin/qemu</emulator>
    <disk type='file'><driver cache='none'/><source file='/srv/a'/><target dev='vda'/></disk>
    <disk type='block'><source dev='/dev/sdb'/><target dev='vdb'/><readonly/></disk>
    <disk type='network'><source protocol='rbd' name='x'/><target dev='vdc'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <interface type='hostdev'><mac address='52:54:00:00:00:02'/>
      <source><address type='pci' domain='0' bus='1' slot='0' function='2'/></source></interface>
    <interface type='hostdev'><mac address='52:54:00:00:00:03'/>
      <source><address type='pci' domain='0' bus='9' slot='0' function='2'/></source></interface>
    <interface type='hostdev'><mac address='52:54:00:00:00:04'/><teaming type='transient' persistent='ua-s'/>
      <source><address type='pci' domain='0' bus='9' slot='0' function='3'/></source></interface>
    <interface type='network'><source network='default'/></interface>
    <interface type='bridge'><source bridge='br0'/></interface>
    <hostdev mode='subsystem' type='usb'><source><vendor id='1'/></source></hostdev>
  </devices></domain>"""


def test_a_guest_is_read_with_its_devices() -> None:
    guest = migrating_guest.read(XML, XML)
    assert (guest.machine, guest.arch, guest.virt, guest.emulator) == (
        "pc-q35-10.0",
        "x86_64",
        "kvm",
        "/usr/bin/qemu",
    )
    assert (guest.memory_kib, guest.cpu_mode) == (1024, "custom")
    assert guest.disks == (
        Disk("vda", "file", "/srv/a", "none"),
        Disk("vdb", "block", "/dev/sdb", readonly=True),
        Disk("vdc", "network"),
        Disk("sda", "file"),
    )
    assert guest.paths == ["/srv/a", "/dev/sdb"]
    assert (guest.networks, guest.bridges) == (("default",), ("br0",))
    assert [each.name for each in guest.devices] == ["hostdev of type usb"]


def test_each_vf_has_its_pool_and_strategy() -> None:
    guest = migrating_guest.read(XML, XML)
    found = [(vf.pool, vf.strategy.name) for vf in migrating_guest.vfs(guest, host("here", HELD))]
    assert found == [("data", "vfio"), ("other", "replug"), (None, "failover")]
    assert [vf.pool for vf in migrating_guest.vfs(guest, None)] == [None, "other", None]


def test_the_cpu_is_rendered_for_libvirts_comparison() -> None:
    guest = migrating_guest.read(XML, XML)
    assert guest.cpu is not None
    compared = migrating_guest.comparable(guest.cpu)
    assert "topology" not in compared
    assert "x2apic" in compared
    assert "EPYC" in compared
    assert guest.names_cpu
    own = XML.replace("<model fallback='forbid'>EPYC</model>", "").replace("'custom'", "'host-passthrough'")
    assert not migrating_guest.read(own, own).names_cpu


def test_the_host_model_is_read_from_domain_capabilities() -> None:
    capabilities = """<domainCapabilities><cpu>
      <mode name='host-passthrough' supported='yes'/>
      <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model><vendor>AMD</vendor>
        <feature policy='require' name='x2apic'/><maxphysaddr mode='passthrough'/></mode></cpu></domainCapabilities>"""
    assert migrating_guest.host_model(capabilities) == (
        '<cpu mode="custom" match="exact"><model>EPYC</model><vendor>AMD</vendor>'
        '<feature policy="require" name="x2apic"/></cpu>'
    )
    assert migrating_guest.host_model("<domainCapabilities/>") is None


@pytest.mark.parametrize("xml", ["", "<network/>", "<domain", "<!DOCTYPE d []><domain/>"])
def test_xml_that_is_no_guest_is_refused(xml: str) -> None:
    with pytest.raises(InputError):
        migrating_guest.read(xml, xml)


@pytest.mark.parametrize(
    ("backing", "size"),
    [
        ("", None),
        ("<memoryBacking><locked/></memoryBacking>", None),
        ("<memoryBacking><hugepages/></memoryBacking>", 0),
        ("<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages></memoryBacking>", 2048),
        ("<memoryBacking><hugepages><page size='1' unit='G'/></hugepages></memoryBacking>", 0),
        ("<memoryBacking><hugepages><page size='1' unit='GiB'/></hugepages></memoryBacking>", 1 << 20),
    ],
)
def test_the_pages_of_the_memory_are_read(backing: str, size: Optional[int]) -> None:
    xml = XML.replace("<devices>", f"{backing}<devices>")
    assert migrating_guest.read(xml, xml).page_kib == size


def test_the_sizes_of_huge_pages_are_read_from_capabilities() -> None:
    pages = "".join(f"<pages unit='KiB' size='{size}'/>" for size in (4, 2048, 1048576))
    assert migrating_guest.page_sizes(f"<capabilities><host><cpu>{pages}</cpu></host></capabilities>") == [
        2048,
        1048576,
    ]
