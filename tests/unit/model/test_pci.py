# SPDX-License-Identifier: GPL-2.0-or-later
"""PCI addresses and IDs as text."""

from __future__ import annotations

import pytest

from vfmigrate.errors import InputError
from vfmigrate.model.pci import PciAddress, PciId


@pytest.mark.parametrize("text", ["0000:e1:00.1", "10000:e1:1f.7"])
def test_an_address_is_written_as_it_is_read(text: str) -> None:
    assert str(PciAddress.parse(text)) == text


@pytest.mark.parametrize("text", ["", "e1:00.1", "0000:e1:00.8", "0000:e1:20.0", "0000:e1:00.1 "])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a PCI address"):
        PciAddress.parse(text)


def test_an_id_is_written_as_it_is_read() -> None:
    assert PciId.parse("8086:10C9") == PciId(0x8086, 0x10C9)
    assert str(PciId(0x8086, 0x10C9)) == "8086:10c9"


@pytest.mark.parametrize("text", ["", "8086", "8086:10c9:0", "80861:0c9", "0x86:10c9"])
def test_an_invalid_id_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a PCI ID"):
        PciId.parse(text)
