# SPDX-License-Identifier: GPL-2.0-or-later
"""The checks of the guest: one result for each fault of its devices, CPU, disks and networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.unit.preflight.snapshots import (
    DISK,
    INTERFACE,
    UUID,
    Fault,
    bad,
    check_error,
    check_warning,
    files,
    good,
    guest,
    libvirt,
    the,
    told,
    way,
)
from vfmigrate.domain.device_kinds import DeviceFinding
from vfmigrate.domain.domain_xml import Domain
from vfmigrate.domain.migrating_guest import Disk
from vfmigrate.model.host_facts import BridgeFacts, FileFacts
from vfmigrate.model.libvirt_facts import CpuFacts, NameConflict
from vfmigrate.preflight import report

SHARED = FileFacts(DISK, True, "file", "nfs4", 100)
LOCAL = FileFacts(DISK, True, "file", "xfs", 100)

#: by what is wrong
ERRORS: Mapping[str, Fault] = {
    "viommu": (
        guest(domain=Domain(UUID, "g", (INTERFACE,), viommu=True)),
        "source",
        "viommu",
        "virtual IOMMU",
    ),
    "device": (
        guest(devices=(DeviceFinding("tpm of type passthrough", True, "stays"),)),
        "source",
        "devices",
        "here: tpm of type passthrough of guest 'g' stays",
    ),
    "name taken": (
        way(name_conflict=NameConflict("another guest named 'g' (UUID 1)")),
        "destination",
        "name",
        "there: there is another guest named 'g'",
    ),
    "runs on both": (
        way(name_conflict=NameConflict("guest 'g'", same=True)),
        "destination",
        "name",
        "there: guest 'g' runs there already",
    ),
    "machine": (way(machine_problem="unknown machine"), "destination", "machine", "unknown machine"),
    "CPU": (
        way(cpu=CpuFacts(False, baseline="<cpu/>")),
        "destination",
        "cpu",
        "cannot provide the guest's CPU",
    ),
    "no network": (
        libvirt("destination", networks={"vfmigrate-data": True}),
        "destination",
        "networks",
        "no network 'default'",
    ),
    "stopped network": (
        libvirt("destination", networks={"default": False, "vfmigrate-data": True}),
        "destination",
        "networks",
        "is not running",
    ),
    "no bridge br0": (told("destination", bridges=(BridgeFacts("br0"),)), "destination", "networks", "'br0'"),
    "huge pages": (
        lambda snapshot: guest(page_kib=2048)(libvirt("destination", free_pages={2048: 10})(snapshot)),
        "destination",
        "memory",
        "there: 20 MiB of huge pages of 2048 KiB are free, and the guest has 1024 MiB in such pages",
    ),
    "absent disk": (
        files(SHARED, FileFacts(DISK, False)),
        "pair",
        "disk",
        f"there: disk vda ({DISK}) does not exist",
    ),
    "local disk": (files(LOCAL, LOCAL), "pair", "disk", "on a local file system (xfs)"),
    "other disk": (files(SHARED, replace(SHARED, size=7)), "pair", "disk", "differs from that on here"),
}

WARNINGS: Mapping[str, Fault] = {
    "stopped": (way(running=False), "source", "running", "is not running"),
    "older QEMU": (libvirt("destination", qemu=9_000_000), "destination", "machine", "older"),
    "CPU unknown": (way(cpu=CpuFacts(None, "no idea")), "destination", "cpu", "no idea"),
    "passthrough": (guest(cpu_mode="host-passthrough"), "pair", "cpu", "host-passthrough"),
    "cached NFS": (guest(disks=(Disk("vda", "file", DISK, None),)), "pair", "disk", "cache='default'"),
    "unseen disk": (files(SHARED, FileFacts(DISK)), "pair", "disk", "could not check whether"),
    "device": (
        guest(devices=(DeviceFinding("hostdev of type usb", False, "is here"),)),
        "source",
        "devices",
        "here: hostdev of type usb of guest 'g' is here",
    ),
    "absent ISO": (
        lambda snapshot: guest(disks=(Disk("sda", "file", DISK, readonly=True, may_be_absent=True),))(
            files(SHARED, FileFacts(DISK, False))(snapshot)
        ),
        "pair",
        "disk",
        "its drive will be empty there, as its startupPolicy allows",
    ),
    "unknown huge pages": (guest(page_kib=0), "destination", "memory", "not known how many are free there"),
    "memory": (libvirt("destination", available_kib=1024), "destination", "memory", "1 MiB"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_an_error_of_the_guest_is_found(fault: str) -> None:
    check_error(ERRORS[fault])
    assert the(ERRORS[fault][0](good())).remedy


@pytest.mark.parametrize("fault", WARNINGS)
def test_a_warning_about_the_guest_is_found(fault: str) -> None:
    check_warning(WARNINGS[fault])


def test_disks_that_are_copied_need_not_be_shared() -> None:
    snapshot = way(copies_storage=True)(files(LOCAL, FileFacts(DISK, False))(good()))
    assert bad(snapshot) == []
    cdrom = guest(disks=(Disk("sda", "file", DISK, None, readonly=True),))(snapshot)
    assert the(cdrom).text == f"there: disk sda ({DISK}) does not exist"


@pytest.mark.parametrize(
    ("disk", "text"),
    [
        (Disk("sda", "file"), "disk sda is an empty drive"),
        (Disk("vdb", "network"), "disk vdb (network) is on the network"),
    ],
)
def test_a_disk_without_a_path_is_called_what_it_is(disk: Disk, text: str) -> None:
    assert [each.text for each in report.judge(guest(disks=(disk,))(good())) if each.check == "disk"] == [
        text
    ]


def test_a_disk_of_an_unknown_kind_is_not_called_one_on_the_network() -> None:
    volume = guest(disks=(Disk("vda", "volume"),))(good())
    assert [each.text for each in report.judge(volume) if each.check == "disk"] == []


def test_a_guest_in_huge_pages_needs_no_ordinary_memory() -> None:
    snapshot = libvirt("destination", free_pages={2048: 512, 1 << 20: 0}, available_kib=1024)(good())
    assert bad(guest(page_kib=2048)(snapshot)) == []
    assert "huge pages of 1048576 KiB" in the(guest(page_kib=1 << 20)(snapshot)).text
