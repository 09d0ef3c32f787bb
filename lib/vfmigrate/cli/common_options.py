# SPDX-License-Identifier: GPL-2.0-or-later
"""Arguments and options that several verbs have, and the types of their values."""

from __future__ import annotations

import argparse
from typing import Callable

from vfmigrate.config import setting
from vfmigrate.errors import InputError

#: libvirt and QEMU count in 64 and 32 bits; larger numbers are mistakes
_MOST = 2**31 - 1


def add_domain(parser: argparse.ArgumentParser, purpose: str = "name or UUID of the guest") -> None:
    """Add DOMAIN."""
    parser.add_argument("domain", metavar="DOMAIN", help=purpose)


def add_connect(parser: argparse.ArgumentParser, purpose: str = "this host's libvirt") -> None:
    """Add --connect, as virsh has it."""
    parser.add_argument("-c", "--connect", metavar="URI", help=f"{purpose}; default: the same as virsh")


def add_dry_run(
    parser: argparse.ArgumentParser, purpose: str = "show what would change; change nothing"
) -> None:
    """Add --dry-run."""
    parser.add_argument("--dry-run", action="store_true", help=purpose)


def add_json(parser: argparse.ArgumentParser, purpose: str = "print JSON") -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help=purpose)


#: what --json of a verb that takes longer prints
EVENTS = "print JSON, one event on each line"


def positive(text: str) -> int:
    """A positive integer."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= _MOST:
        raise argparse.ArgumentTypeError(f"'{text[:20]}' is not a positive integer")
    return int(text)


def number(least: int, most: int) -> Callable[[str], int]:
    """The type of an integer within limits."""
    form = setting.number(least, most)

    def read(text: str) -> int:
        try:
            return int(form.read(text))
        except InputError as error:
            raise argparse.ArgumentTypeError(error.problem) from None

    return read


#: a VLAN tag
vlan = number(1, setting.MAX_VLAN)
