# SPDX-License-Identifier: GPL-2.0-or-later
"""Text written to a sysfs attribute, parsed as the kernel's lib/kstrtox.c does. Invalid text is an OSError."""

from __future__ import annotations

import errno
import re

_WORDS = {"1": True, "y": True, "t": True, "on": True, "0": False, "n": False, "f": False, "of": False}


def u16(text: str) -> int:
    """Read a number as kstrtou16(text, 0) does: the prefix gives the base, and at most one newline may follow."""
    match = re.fullmatch(r"\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\n?", text)
    if match is None:
        raise OSError(errno.EINVAL, "")
    digits = match.group(1)
    octal = digits.startswith("0") and digits[1:].isdigit()
    value = int(digits, 8 if octal else 0)
    if value > 0xFFFF:
        raise OSError(errno.EINVAL, "")  # sriov_numvfs_store() has one error for every invalid number
    return value


def boolean(text: str) -> bool:
    """Read a truth value as kstrtobool() does: its first character decides, two for on and off."""
    word = text.lower()
    value = _WORDS.get(word[:1], _WORDS.get(word[:2]))
    if value is None:
        raise OSError(errno.EINVAL, "")
    return value
