# SPDX-License-Identifier: GPL-2.0-or-later
"""What apt, Open vSwitch, libvirt and a guest's console print, understood."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.testbed import apt, fabric, kernel, lab, migrate
from tests.testbed.guest import Guest, Nic, last_nics, last_tick
from tests.testbed.releases import TRIXIE, TRIXIE_BACKPORTS
from tests.testbed.scenarios import replug_bond

GUEST = Guest("g", 3, (Nic("52:54:00:00:00:02", 42, 20, "0000:01:10.2"), Nic("52:54:00:00:00:03", 43, 20)))


def test_source_lines_are_debians_own_on_the_machines_mirror() -> None:
    targets = """\
http://mirror.test/debian/ bookworm main
http://mirror.test/debian/ bookworm contrib
http://mirror.test/debian/ bookworm-updates main
http://mirror.test/debian-security/ bookworm-security main
http://mirror.test/debian-security/ bookworm-security main
https://packages.test/apt cloud-sdk-bookworm main
"""
    plain = [
        "http://mirror.test/debian/ trixie main",
        "http://mirror.test/debian/ trixie-updates main",
        "http://mirror.test/debian-security/ trixie-security main",
    ]
    newer = [plain[0], "http://mirror.test/debian/ trixie-backports main", *plain[1:]]
    for release, lines in ((TRIXIE, plain), (TRIXIE_BACKPORTS, newer)):
        found = apt.source_lines(targets, "bookworm", release)
        assert [line.split("] ")[1] for line in found] == lines


def test_the_release_of_this_machine_is_read() -> None:
    assert apt.codename('NAME="Debian"\nVERSION_CODENAME=bookworm\n') == "bookworm"
    assert apt.codename("NAME=Other\n") == ""


def test_candidates_are_read_from_apts_policy() -> None:
    text = (
        "qemu:\n  Installed: (none)\n  Candidate: 1:10.0\nnone:\n  Installed: (none)\n  Candidate: (none)\n"
    )
    assert apt.parse_policy(text) == {"qemu": "1:10.0"}


def test_a_kernels_series_names_its_source() -> None:
    assert apt.Kernel("6.12.38+deb13-amd64", "6.12.38-1").series == "6.12"


def test_the_switchs_table_is_read() -> None:
    table = """\
 port  VLAN  MAC                Age
    1    42  52:54:00:00:00:02    3
LOCAL     0  aa:aa:aa:aa:aa:aa    1
"""
    assert fabric.parse_learned(table, "52:54:00:00:00:02", 42, {"1": "uplink-a"}) == "uplink-a"
    assert fabric.parse_learned(table, "52:54:00:00:00:02", 43, {"1": "uplink-a"}) is None
    assert fabric.parse_learned("", "52:54:00:00:00:02", 42, {}) is None


def test_a_guests_domain_is_xml_with_its_vfs_and_their_vlans() -> None:
    domain = ElementTree.fromstring(GUEST.xml())
    marks = domain.findall("metadata/{urn:vfmigrate:domain:1}vfs/{urn:vfmigrate:domain:1}vf")
    assert [(mark.get("mac"), mark.get("vlan")) for mark in marks] == [("52:54:00:00:00:02", "42")]
    assert [interface.get("type") for interface in domain.iter("interface")] == ["hostdev", "bridge"]
    assert lab.vf_addresses(GUEST.xml()) == {"52:54:00:00:00:02": "0000:01:10.2"}
    command_line = domain.findtext("os/cmdline") or ""
    assert "net=52:54:00:00:00:02=10.42.0.20/24,52:54:00:00:00:03=10.43.0.20/24" in command_line


def test_a_guest_can_have_a_bond_and_a_load() -> None:
    domain = ElementTree.fromstring(Guest("b", 4, GUEST.nics, bonded=True, churn_mib=24).xml())
    command_line = domain.findtext("os/cmdline") or ""
    assert "bond=52:54:00:00:00:02,52:54:00:00:00:03,10.42.0.20/24 churn=24" in command_line
    assert " net=" not in command_line
    marks = domain.findall("metadata/{urn:vfmigrate:domain:1}vfs/{urn:vfmigrate:domain:1}vf")
    assert [mark.get("strategy") for mark in marks] == ["replug"]


def test_the_text_of_a_terminal_is_read_without_its_codes() -> None:
    raw = "goes to b\r\n\x1b[?25lpass 1 \x1b[1m10%\x1b[0m\r\x1b[2Kpass 1 10%\r\x1b[2Kpass 2 50%\r\n\x1b[?25harrived\r\n"
    assert "pass 2 50%\narrived\n" in migrate.recording(raw)
    assert migrate.recording("a\r\na\r\nb\r\n") == "a\nb\n"


def test_an_unfinished_line_of_events_is_ignored() -> None:
    assert migrate.events('{"event": "begin"}\n{"event": "pro') == [{"event": "begin"}]
    assert migrate.events("") == []


def test_the_time_of_a_representors_first_frame_is_found() -> None:
    counters = (
        "100.0\n/sys/class/net/r0/statistics/rx_packets:5\n/sys/class/net/r1/statistics/rx_packets:90\n"
        "100.5\n/sys/class/net/r0/statistics/rx_packets:14\n"
        "101.0\n/sys/class/net/r0/statistics/rx_packets:15\n/sys/class/net/r1/statistics/rx_packets:"
    )
    assert replug_bond.carrying(counters, "r0") == 101.0
    assert replug_bond.carrying(counters, "r1") is None


def test_a_guest_without_vfs_has_no_metadata() -> None:
    plain = Guest("p", 1, GUEST.nics[1:])
    assert ElementTree.fromstring(plain.xml()).find("metadata") is None


def test_ticks_are_counted_in_complete_lines() -> None:
    assert last_tick("GUEST-UP\r\n") == 0
    assert last_tick("TICK 0 uptime=1.0\r\nNICS 0 eth0\r\nTICK 1 uptime=2.0\r\nTICK 2 upti") == 2


def test_the_guests_report_of_its_nics_is_read_in_complete_lines() -> None:
    assert last_nics("GUEST-UP\r\n") == ""
    told = "TICK 0 uptime=1.0\r\nNICS 0 eth0=m=up\r\nTICK 1 uptime=2.0\r\nNICS 1 eth0=m"
    assert last_nics(told) == "0 eth0=m=up"


def test_a_kernel_configuration_that_lost_an_option_is_refused() -> None:
    kernel.check_config("CONFIG_A=y\n# words\nCONFIG_B=n\n", "CONFIG_A=y\n")
    with pytest.raises(kernel.KernelError, match="CONFIG_A=y"):
        kernel.check_config("CONFIG_A=y\n", "CONFIG_B=y\n")


def test_the_kernel_in_a_bzimage_is_found(tmp_path: Path) -> None:
    elf = b"\x7fELF" + bytes(1000)
    plain = tmp_path / "elf"
    plain.write_bytes(elf)
    payload = subprocess.run(["zstd", "-c", plain], capture_output=True, check=True).stdout
    payload += struct.pack("<I", len(elf))
    image = bytearray(2 * 512 + 64)
    image[0x1F1] = 1  # one setup sector after the boot sector
    struct.pack_into("<II", image, 0x248, 64, len(payload))
    assert kernel.decompress_image(bytes(image) + payload + b"trailer") == elf


def test_a_bzimage_of_another_kind_is_refused() -> None:
    with pytest.raises(kernel.KernelError, match="zstd"):
        kernel.decompress_image(bytes(4096))
