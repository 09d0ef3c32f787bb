# SPDX-License-Identifier: GPL-2.0-or-later
"""What udev is told, and what it tells."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vfmigrate.host.udev import OwnedPf, Udev, representor_prefix
from vfmigrate.model.pci import PciAddress

PFS = st.builds(
    PciAddress, st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 0x1F), st.integers(0, 7)
)


def test_names_contain_the_place_of_the_card() -> None:
    assert representor_prefix(PciAddress(0, 0xE1, 0, 1)) == "re100"


@given(PFS, PFS)
def test_prefixes_are_short_and_distinguish_cards(one: PciAddress, other: PciAddress) -> None:
    assert len(representor_prefix(one) + "pf7vf4094") <= 15
    assert not (representor_prefix(one) + "pf0vf0").isdigit()
    same_card = (one.domain, one.bus, one.slot) == (other.domain, other.bus, other.slot)
    assert (representor_prefix(one) == representor_prefix(other)) == same_card


def test_a_device_is_settled_when_its_rules_have_run(tmp_path: Path) -> None:
    udev = Udev(tmp_path)
    assert udev.settled(7)  # no udev here
    (tmp_path / "control").touch()
    assert not udev.settled(7)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/n7").touch()
    assert udev.settled(7)


def test_devices_are_returned_whose_properties_changed(tmp_path: Path) -> None:
    udev = Udev(owned=tmp_path / "owned")
    pf, vf, other = PciAddress(0, 1, 0, 0), PciAddress(0, 1, 0, 2), PciAddress(0, 2, 0, 0)
    plain, named = OwnedPf(pf, [vf], stable_names=False), OwnedPf(pf, [vf], stable_names=True)
    assert udev.publish([plain]) == [pf, vf]
    assert udev.publish([plain]) == []
    assert udev.publish([named, OwnedPf(other, [], stable_names=False)]) == [pf, other]
    assert (tmp_path / "owned" / str(pf)).read_text().endswith("VFMIGRATE_REPRESENTOR_PREFIX=r0100\n")
    assert udev.publish([named]) == [other]
    assert udev.publish([]) == [pf, vf]
    assert list((tmp_path / "owned").iterdir()) == []
