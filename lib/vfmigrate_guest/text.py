# SPDX-License-Identifier: GPL-2.0-or-later
"""All text that `vfmigrate-guest` prints: names of devices and profiles in it can hold anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any


def printable(text: str) -> str:
    """The text with all but visible characters and blanks escaped, as vfmigrate.text has it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def say(line: str) -> None:
    """Print a line."""
    print(printable(line))


def complain(line: str) -> None:
    """Print a line on standard error."""
    print(printable(f"vfmigrate-guest: {line}"), file=sys.stderr)


def say_json(value: Mapping[str, Any]) -> None:
    """Print a value as JSON, whose own escapes hold such characters."""
    print(json.dumps(value, indent=2))
