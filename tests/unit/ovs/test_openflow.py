# SPDX-License-Identifier: GPL-2.0-or-later
"""OpenFlow messages as bytes; that a bridge understands them is the integration tests' to show."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmigrate.ovs import openflow

FRAME = b"\xaa" * 60
VERSION = st.sampled_from(openflow.VERSIONS)


def bitmap(*versions: int) -> bytes:
    return struct.pack("!HHI", 1, 8, sum(1 << version for version in versions))


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (1, "010d0054 00000007 ffffffff 0009 0008 0000 0008 fffa 0000"),
        (4, "040d0064 00000007 ffffffff 00000009 0010 000000000000 0000 0010 fffffffa 0000 000000000000"),
        (
            6,
            "060d006c00000007 ffffffff00100000 0001000c80000004 0000000900000000 00000010fffffffa 0000000000000000",
        ),
    ],
)
def test_packet_out_has_the_layout_of_its_version(version: int, expected: str) -> None:
    head = bytes.fromhex(expected.replace(" ", ""))
    assert openflow.packet_out(version, 7, 9, FRAME) == head + FRAME


@given(VERSION, st.binary(max_size=2000))
def test_the_header_has_version_type_and_length(version: int, frame: bytes) -> None:
    message = openflow.packet_out(version, 1, 1, frame)
    assert struct.unpack_from("!BBH", message) == (version, openflow.PACKET_OUT, len(message))


def test_hello_offers_all_supported_versions() -> None:
    assert openflow.hello() == bytes.fromhex("06000010 00000001 0001 0008 0000007e".replace(" ", ""))


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        (1, b"", 1),  # a switch of OpenFlow 1.0 knows no bitmap
        (4, b"", 4),
        (0x0A, b"", 6),  # newer than all of ours
        (5, bitmap(1, 4), 4),  # the bitmap, not the header, says what is allowed
        (6, bitmap(6), 6),
        (9, bitmap(9), 0),
        (4, struct.pack("!HH8x", 7, 12) + bytes(4) + bitmap(2), 2),  # an element we do not know, padded
    ],
)
def test_the_common_version_is_that_of_header_or_bitmap(header: int, body: bytes, expected: int) -> None:
    assert openflow.common_version(header, body) == expected


@given(st.sets(st.integers(1, 31)))
def test_the_highest_common_version_is_chosen(offered: set[int]) -> None:
    common = offered & set(openflow.VERSIONS)
    assert openflow.common_version(max(offered, default=0), bitmap(*offered)) == max(common, default=0)


@given(st.integers(0, 255), st.binary(max_size=64))
def test_any_bytes_give_a_known_version_or_none(header: int, body: bytes) -> None:
    assert openflow.common_version(header, body) in {0, *openflow.VERSIONS}
