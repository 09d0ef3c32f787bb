# SPDX-License-Identifier: GPL-2.0-or-later
"""In which VLANs a MAC is announced."""

from __future__ import annotations

from typing import Optional

import pytest

from vfmigrate.announce.announcer import in_words, vlans_of
from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.model.pci import PciAddress


@pytest.mark.parametrize(
    ("tag", "trunks", "announced", "words"),
    [
        (42, (), (0,), "in VLAN 42"),  # the access port adds its tag
        (None, (42, 43), (42, 43), "in VLANs 42, 43"),
        (None, (0,), (0,), "without a tag"),
        (None, (0, 42), (0, 42), "without a tag and in VLAN 42"),
        (10, (42,), (0, 42), "in VLANs 10, 42"),  # native-untagged: what has no tag gets the port's
        (None, (), (0, 7, 9), "without a tag and in VLANs 7, 9"),  # all VLANs: those in which it was seen
    ],
)
def test_each_vlan_of_the_port_is_announced(
    tag: Optional[int], trunks: tuple[int, ...], announced: tuple[int, ...], words: str
) -> None:
    vf, domain = PciAddress(0, 1, 0x10, 0), "00000000-0000-4000-8000-000000000001"
    claim = Claim(vf, "data", domain, "g", PLUGGED, 0.0, vlan=tag, trunks=trunks, seen_in=(7, 9))
    assert (vlans_of(claim), in_words(claim)) == (announced, words)
