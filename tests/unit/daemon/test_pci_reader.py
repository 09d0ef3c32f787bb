# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon has another process read for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Optional

import pytest

from vfmigrate.cards.mlx5 import Mlx5
from vfmigrate.cards.registry import Vendors
from vfmigrate.cards.vendor import Vendor
from vfmigrate.daemon import pci_reader
from vfmigrate.daemon.pci_reader import REQUESTS, PciReader, PciReads
from vfmigrate.errors import Denied, HostError, InputError, Unreachable
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.model.pci import PciAddress
from vfmigrate.rpc import protocol
from vfmigrate.rpc.protocol import Request
from vfmigrate.rpc.server import Server, listening_socket

VF = PciAddress(0, 1, 0, 2)
BROKEN = PciAddress(0, 1, 0, 3)
#: a device with one capability, MSI-X of 11 vectors, at 0x40
SPACE = bytes(6) + b"\x10" + bytes(0x34 - 7) + b"\x40" + bytes(0x40 - 0x35) + b"\x11\x00\x0a\x00" + bytes(188)


class Maker(Vendor):
    """A vendor with a tool."""

    pci_vendor = 0x1234

    def migration_setting(self, pf: PciAddress) -> Optional[int]:
        if pf != VF:
            raise HostError(f"the tool failed for {pf}")
        return 2


VENDORS = Vendors([Maker()])


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    for address in (VF, BROKEN):
        device = tmp_path / "sys/bus/pci/devices" / str(address)
        device.mkdir(parents=True)
        (device / "vendor").write_text("0x1234\n")
        (device / "device").write_text("0x0001\n")
    (tmp_path / "sys/bus/pci/devices" / str(VF) / "config").write_bytes(SPACE)
    return tmp_path / "sys"


@pytest.fixture
def reader(sys: Path, tmp_path: Path) -> Iterator[PciReader]:
    """The reader of a process that answers root, as which the tests run."""
    reads = PciReads(sys, VENDORS)
    server = Server(
        listening_socket(tmp_path / "sock"), lambda request, _uid: reads.answer(request, 0), known=REQUESTS
    )
    server.start()
    yield PciReader(tmp_path / "sock")
    server.stop()


def test_configuration_space_is_read(reader: PciReader) -> None:
    assert reader.config_spaces([VF]) == {VF: SPACE}
    with pytest.raises(HostError, match="cannot read"):
        reader.config_spaces([VF, BROKEN])


def test_many_devices_are_read_with_few_requests(
    reader: PciReader, sys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pci_reader, "_DEVICES_AT_ONCE", 2)
    spaces = {replace(VF, bus=bus): SPACE[:255] + bytes([bus]) for bus in range(2, 7)}
    for device, space in spaces.items():
        directory = sys / "bus/pci/devices" / str(device)
        directory.mkdir()
        (directory / "config").write_bytes(space)
    assert reader.config_spaces(list(spaces)) == spaces
    assert reader.config_spaces([]) == {}


def test_a_setting_of_the_firmware_is_read(reader: PciReader) -> None:
    assert reader.migration_setting(VF) == 2
    with pytest.raises(HostError, match="the tool failed for"):
        reader.migration_setting(BROKEN)


def test_a_vendor_has_its_setting_read_by_another_process() -> None:
    card = Mlx5().reading_setting_by(lambda _pf: 0)
    assert [finding.severity for finding in card.settings(VF)] == ["error"]


def test_only_root_is_answered(sys: Path) -> None:
    reads = PciReads(sys, VENDORS)
    for name in REQUESTS:
        with pytest.raises(Denied):
            reads.answer(Request(name, {"device": str(VF)}), 1000)


@pytest.mark.parametrize("device", ["../../../etc/shadow", "0000:01:00.2/../x", "", "x"])
def test_only_a_pci_address_is_read(sys: Path, device: str) -> None:
    with pytest.raises(InputError):
        PciReads(sys).answer(Request("config_spaces", {"devices": [device]}), 0)


def test_requests_of_the_daemon_are_unknown_here_and_these_there() -> None:
    assert not protocol.REQUESTS & REQUESTS


def test_without_the_process_the_remedy_names_its_units(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="systemctl restart vfmigrate-pci"):
        PciReader(tmp_path / "absent").config_spaces([VF])


def test_the_size_of_the_msix_table_is_read_by_another_process_where_only_the_head_is_seen(sys: Path) -> None:
    assert Sysfs(sys).msix_count(VF) == 11
    (sys / "bus/pci/devices" / str(VF) / "config").write_bytes(SPACE[:64])
    assert Sysfs(sys).msix_count(VF) is None
    assert Sysfs(sys, config=lambda devices: dict.fromkeys(devices, SPACE)).msix_count(VF) == 11


def test_the_right_is_seen_in_the_status_of_a_process(tmp_path: Path) -> None:
    status = tmp_path / "status"
    for capabilities, privileged in {
        "000001ffffffffff": True,
        "0000000000081006": False,
        "0000000000200000": True,
    }.items():
        status.write_text(f"Name:\tpython3\nCapPrm:\t0\nCapEff:\t{capabilities}\n")
        assert pci_reader.is_privileged(status) == privileged
    assert pci_reader.is_privileged() == (os.geteuid() == 0)
