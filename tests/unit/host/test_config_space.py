# SPDX-License-Identifier: GPL-2.0-or-later
"""Values in the configuration space of a PCI device."""

from __future__ import annotations

import pytest

from vfmigrate.host import config_space


def space(command: int = 0, *capabilities: bytes, status: int = 0x10) -> bytes:
    """256 bytes with these capabilities, one after the other from 0x40 on."""
    data = bytearray(256)
    data[4:6] = command.to_bytes(2, "little")
    data[6] = status
    offset = 0x34
    for number, capability in enumerate(capabilities):
        data[offset] = at = 0x40 + 0x10 * number
        data[at : at + len(capability)] = capability
        offset = at + 1
    return bytes(data)


def test_the_msix_count_is_in_its_capability() -> None:
    assert config_space.msix_count(space(0, b"\x05\x00", b"\x11\x00\x0b\x80")) == 12


@pytest.mark.parametrize(
    "data",
    [
        b"",
        space(0),
        space(0, b"\x05\x00"),
        space(0, b"\x11\x00\x0b\x80", status=0),
        space(0, b"\x05\x40"),
    ],
    ids=["unreadable", "no capabilities", "no MSI-X", "capabilities not valid", "a loop"],
)
def test_a_device_without_msix_has_no_count(data: bytes) -> None:
    assert config_space.msix_count(data) is None


@pytest.mark.parametrize(("command", "expected"), [(0x4, True), (0x7, True), (0x3, False), (0xFFFF, False)])
def test_the_bus_master_bit_is_read(command: int, expected: bool) -> None:
    assert config_space.is_bus_master(space(command)) is expected
