# SPDX-License-Identifier: GPL-2.0-or-later
"""Settings: how a key of the configuration is written, read and explained.

A section of the configuration is a dataclass; each of its fields that an administrator can set has a `Setting` in its
metadata. The parser and vfmigrate.conf(5) both use them, so that the two always have the same keys.
"""

from __future__ import annotations

import configparser
import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from vfmigrate.errors import InputError
from vfmigrate.model.pci import PciAddress

# net/if.h: IFNAMSIZ is 16 with the closing zero.
MAX_NETDEV_NAME = 15
MAX_VLAN = 4094


@dataclass(frozen=True)
class ValueFormat:
    """How a value is written: its name in the manual, and a function that reads it or raises InputError."""

    name: str
    read: Callable[[str], Any]


@dataclass(frozen=True)
class Setting:
    """One key of a section."""

    key: str
    form: ValueFormat
    #: for vfmigrate.conf(5); whole sentences
    explanation: str
    #: the default in the manual's words; empty when it is the default of the field
    otherwise: str = ""


def key(name: str, form: ValueFormat, explanation: str, otherwise: str = "") -> Mapping[str, Any]:
    """The metadata of a dataclass field that the key `name` sets."""
    return {"setting": Setting(name, form, explanation, otherwise)}


def settings(section: type) -> Iterator[tuple[dataclasses.Field[Any], Setting]]:
    """The fields of a section's dataclass that are keys, in their order."""
    for field in dataclasses.fields(section):
        if "setting" in field.metadata:
            yield field, field.metadata["setting"]


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether a section without this key is an error."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def number(low: int, high: int) -> ValueFormat:
    """A decimal number within limits."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise InputError(f"'{text}' is not a number from {low} to {high}")
        return int(text)

    return ValueFormat(f"number from {low} to {high}", read)


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _text(text: str) -> str:
    if not text:
        raise InputError("the value is missing")
    return text


def _flag(text: str) -> bool:
    if text.lower() not in configparser.ConfigParser.BOOLEAN_STATES:
        raise InputError(f"'{text}' is neither yes nor no")
    return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]


#: what `vlans = all` allows
ALL_VLANS = frozenset(range(1, MAX_VLAN + 1))


def _vlans(text: str) -> frozenset[int]:
    if text.strip() == "all":
        return ALL_VLANS
    found: set[int] = set()
    for word in _words(text):
        low, _, high = word.partition("-")
        if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?", word) or not (
            1 <= int(low) <= int(high or low) <= MAX_VLAN
        ):
            raise InputError(f"'{word}' is not a VLAN or a range of VLANs from 1 to {MAX_VLAN}")
        found.update(range(int(low), int(high or low) + 1))
    return frozenset(found)


def _bridge(text: str) -> str:
    if len(text) > MAX_NETDEV_NAME or "/" in text or len(text.split()) != 1:
        raise InputError(f"'{text}' is not a valid name for a bridge", "at most 15 characters, no '/'")
    return text


def _netdev(text: str) -> str:
    if not 0 < len(text) <= MAX_NETDEV_NAME or "/" in text or len(text.split()) != 1:
        raise InputError(
            f"'{text}' is not a valid name for a network device", "at most 15 characters, no '/'"
        )
    return text


def _network(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,49}", text):
        raise InputError(
            f"'{text}' is not a valid name for a libvirt network", "use letters, digits, '.', '_' and '-'"
        )
    return text


def _version(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){1,3}", text):
        raise InputError(f"'{text}' is not a firmware version", "write it as 28.36.1010")
    return tuple(int(part) for part in text.split("."))


def _path(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise InputError(f"'{text}' is not the path of a file", "write the whole path, from / on")
    return Path(text)


def choice(*words: str) -> ValueFormat:
    """One of a few words."""

    def read(text: str) -> str:
        if text not in words:
            raise InputError(f"'{text}' is not one of {', '.join(words)}")
        return text

    return ValueFormat(" or ".join(words), read)


TEXT = ValueFormat("text", _text)
PATH = ValueFormat("path of a file", _path)
FLAG = ValueFormat("yes or no", _flag)
NAMES = ValueFormat("names", lambda text: frozenset(_words(text)))
VLANS = ValueFormat("VLANs and ranges of them", _vlans)
NETDEV = ValueFormat("name of a network device, or none", _netdev)
NETWORK = ValueFormat("name of a libvirt network, or none", _network)
VERSION = ValueFormat("firmware version", _version)
BRIDGE = ValueFormat("name of a bridge", _bridge)
PCI_ADDRESSES = ValueFormat(
    "PCI addresses", lambda text: tuple(PciAddress.parse(word) for word in _words(text))
)
