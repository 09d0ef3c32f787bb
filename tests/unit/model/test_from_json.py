# SPDX-License-Identifier: GPL-2.0-or-later
"""Dataclasses from JSON: read as they were written, or refused with the name of the field."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Optional

import pytest

from vfmigrate.errors import InputError
from vfmigrate.model import from_json
from vfmigrate.model.pci import PciAddress


@dataclass(frozen=True)
class Part:
    """A record inside another."""

    name: str
    size: Optional[int] = None


@dataclass(frozen=True)
class Whole:
    """A record with a value of each type."""

    time: float
    parts: tuple[Part, ...] = ()
    flag: bool = False
    vf: Optional[PciAddress] = None


WHOLE = Whole(3.5, (Part("a"), Part("b", 7)), True)


def read(**raw: Any) -> Whole:
    return from_json.read(Whole, raw, "the whole", "write it again")


def test_a_record_is_read_as_it_was_written() -> None:
    assert read(**json.loads(json.dumps(asdict(WHOLE)))) == WHOLE
    assert read(time=1, vf="0000:01:00.2") == Whole(1.0, vf=PciAddress(0, 1, 0, 2))


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        ({"time": "noon"}, "cannot read 'time'"),
        ({"time": True}, "cannot read 'time'"),
        ({"time": math.nan}, "cannot read 'time'"),
        ({"time": 10**400}, "cannot read 'time'"),
        ({"time": 1, "flag": 1}, "cannot read 'flag'"),
        ({"time": 1, "parts": {}}, "cannot read 'parts'"),
        ({"time": 1, "parts": [7]}, "cannot read 'parts'"),
        ({"time": 1, "parts": [{"name": None}]}, "cannot read 'name'"),
        ({"time": 1, "parts": [{"name": "a", "size": False}]}, "cannot read 'size'"),
        ({"time": 1, "parts": [{}]}, "there is no 'name' in"),
        ({"time": 1, "vf": 7}, "cannot read 'vf'"),
        ({}, "there is no 'time' in"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_field_and_the_remedy(
    raw: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InputError, match=rf"{problem}.* the whole; write it again"):
        read(**raw)


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(InputError, match="cannot read the whole"):
        from_json.read(Whole, [1], "the whole")


def test_unknown_fields_are_ignored_and_missing_ones_get_their_default() -> None:
    assert read(time=1, more={"a": 1}) == Whole(1.0)


def test_a_strict_reader_refuses_unknown_and_missing_fields() -> None:
    def strictly(**raw: Any) -> Whole:
        return from_json.read(Whole, raw, "the whole", may_lack=("vf",))

    assert strictly(time=1, parts=[], flag=False) == Whole(1.0)
    with pytest.raises(InputError, match="there is no 'flag' in the whole"):
        strictly(time=1, parts=[])
    with pytest.raises(InputError, match="unknown 'more' in the whole"):
        strictly(time=1, parts=[], flag=False, more=1)
