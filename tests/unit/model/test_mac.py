# SPDX-License-Identifier: GPL-2.0-or-later
"""MAC addresses: what is one, and what it is read as."""

from __future__ import annotations

import pytest

from vfmigrate.errors import InputError
from vfmigrate.model.mac import is_mac, parse_mac


def test_upper_case_is_read_as_lower_case() -> None:
    assert parse_mac("52:54:00:AB:cd:0F") == "52:54:00:ab:cd:0f"


@pytest.mark.parametrize(
    "text",
    ["", "52:54:00:ab:cd", "52:54:00:ab:cd:0f:00", "52-54-00-ab-cd-0f", "52:54:00:ab:cd:0g", "\x1b[2J"],
)
def test_an_invalid_mac_is_refused_with_an_example(text: str) -> None:
    assert not is_mac(text)
    with pytest.raises(InputError, match="is not a MAC address; write it as 52:54:00:12:34:56") as refused:
        parse_mac(text)
    assert "\x1b" not in str(refused.value)


def test_a_long_text_is_quoted_in_part() -> None:
    with pytest.raises(InputError) as refused:
        parse_mac("5" * 10000)
    assert len(str(refused.value)) < 200
