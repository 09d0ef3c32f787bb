# SPDX-License-Identifier: GPL-2.0-or-later
"""The announcement's bytes and timing, against what QEMU sends."""

from __future__ import annotations

from itertools import accumulate

import pytest

from vfmigrate.announce.rarp import ROUNDS, delays, rarp
from vfmigrate.errors import InputError


def test_the_frame_equals_that_of_qemu() -> None:
    mac = "525400abcdef"
    expected = (
        f"ffffffffffff {mac} 8035"  # broadcast, from the guest, RARP
        "0001 0800 06 04 0003"  # Ethernet, IPv4, reverse request
        f"{mac} 00000000 {mac} 00000000"  # whose address, and nobody's IPv4
    )
    assert rarp("52:54:00:AB:cd:ef") == bytes.fromhex(expected.replace(" ", "")) + bytes(18)


def test_the_vlan_tag_precedes_the_ethertype() -> None:
    untagged, tagged = rarp("52:54:00:AB:cd:ef"), rarp("52:54:00:AB:cd:ef", 43)
    assert tagged == untagged[:12] + bytes.fromhex("8100002b") + untagged[12:]


@pytest.mark.parametrize(
    "text", ["", "52:54:00:00:00", "52:54:00:00:00:0g", "5254000:0:00:02", "52-54-00-00-00-02"]
)
def test_an_invalid_mac_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a MAC address"):
        rarp(text)


def test_frames_are_sent_at_qemus_default_times() -> None:
    assert [round(moment * 1000) for moment in accumulate(ROUNDS)] == [0, 50, 200, 450, 800]


def test_pauses_grow_up_to_the_maximum() -> None:
    assert delays(initial=1, step=2, maximum=4, rounds=5) == (0, 1, 3, 4, 4)
