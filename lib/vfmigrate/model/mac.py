# SPDX-License-Identifier: GPL-2.0-or-later
"""MAC addresses, as libvirt, devlink and the metadata write them."""

from __future__ import annotations

import re

from vfmigrate.errors import InputError

#: the MAC of a VF to which nobody gave one
NO_MAC = "00:00:00:00:00:00"
#: what libvirt sets in place of NO_MAC where the driver refuses that (altZeroMAC in src/util/virnetdev.c)
NO_MAC_INSTEAD = "02:00:00:00:00:00"

_TEXT = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


def is_mac(text: str) -> bool:
    """Whether `text` is a MAC address, in lower or upper case."""
    return _TEXT.fullmatch(text) is not None


def parse_mac(text: str) -> str:
    """Read a MAC address: the same in lower case. Raises InputError when `text` is anything else."""
    if not is_mac(text):
        raise InputError(f"'{ascii(text[:40])[1:-1]}' is not a MAC address", "write it as 52:54:00:12:34:56")
    return text.lower()
