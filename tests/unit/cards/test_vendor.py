# SPDX-License-Identifier: GPL-2.0-or-later
"""What holds for a card of which nothing is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vfmigrate.cards.generic import VENDOR
from vfmigrate.cards.vendor import CardState, version
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules.findings import ERROR, WARNING

PF = PciAddress(0, 0x41, 0, 0)


def test_a_card_that_reports_nothing_is_fine() -> None:
    assert list(VENDOR.findings(CardState(PF), ask_tool=True)) == []
    assert list(VENDOR.findings(CardState(PF, firmware="1.2"), ask_tool=True)) == []


def test_a_port_without_the_flag_is_fine() -> None:
    assert not VENDOR.lacks_flag(None)
    assert list(VENDOR.findings(CardState(PF, lacks_flag=True))) == []


def test_firmware_below_firmware_min_is_an_error() -> None:
    state = CardState(PF, firmware="1.9.0", firmware_min=(1, 10))
    (finding,) = VENDOR.findings(state)
    assert (finding.severity, finding.text) == (
        ERROR,
        "PF 0000:41:00.0 runs firmware 1.9.0, migration needs 1.10 or newer",
    )
    assert list(VENDOR.findings(replace(state, firmware="1.10.1"))) == []


def test_firmware_that_waits_for_a_reset_is_a_warning() -> None:
    (finding,) = VENDOR.findings(CardState(PF, firmware="1.9", stored_firmware="2.0"))
    assert (finding.severity, "will run 2.0 after its next reset" in finding.text) == (WARNING, True)


def test_each_remedy_has_a_text() -> None:
    remedies = VENDOR.remedies(PF, 12)
    assert "12 VFs" in remedies.sriov
    assert remedies.driver
    assert "modules.alias" in remedies.variant
    assert "VFs" in VENDOR.remedies(PF, None).sriov


@pytest.mark.parametrize(
    ("older", "newer"),
    [("28.36.1010", "28.41.1000"), ("28.9.2000", "28.36.1010"), ("28.36.999", "28.36.1010")],
)
def test_versions_compare_as_numbers(older: str, newer: str) -> None:
    assert version(older) < version(newer)
