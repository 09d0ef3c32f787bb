# SPDX-License-Identifier: GPL-2.0-or-later
"""Dataclasses from parsed JSON, whose form is checked: it was written by another host, or by another version. Pure.

It reads the types of `host_facts` and claims: text, numbers, flags, PCI addresses, and optional values, tuples and
dataclasses of them. A number of a float field can be a whole one; true and false are no numbers.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Optional, TypeVar, Union

from vfmigrate.errors import InputError
from vfmigrate.model.pci import PciAddress

Record = TypeVar("Record")
_TOO_LARGE = 1 << 64


def read(
    kind: type[Record],
    raw: object,
    what: str,
    remedy: str = "",
    *,
    may_lack: Optional[Collection[str]] = None,
) -> Record:
    """The dataclass `kind` from a parsed JSON object; `what` names the object and `remedy` says what to do, in errors.

    Fields that have a default can be missing and unknown ones are ignored, as in what another version wrote. With
    `may_lack` only these fields can be missing, and unknown ones are refused. Raises InputError for any other form.
    """
    return typing.cast(Record, _Reader(what, remedy, may_lack).value(kind, raw, what))


@dataclass(frozen=True)
class _Reader:
    what: str
    remedy: str
    may_lack: Optional[Collection[str]]

    def value(self, kind: Any, raw: Any, name: str) -> Any:
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if origin is Union:
            return None if raw is None else self.value(inner[0], raw, name)
        if origin is tuple:
            if isinstance(raw, (list, tuple)):
                return tuple(self.value(inner[0], each, name) for each in raw)
        elif kind is PciAddress:
            if isinstance(raw, str):
                return PciAddress.parse(raw)
        elif is_dataclass(kind):
            if isinstance(raw, Mapping):
                return self._record(kind, raw)
        elif _is_plain(kind, raw):
            return float(raw) if kind is float else raw
        what = self.what if name == self.what else f"'{name}' of {self.what}"
        raise InputError(f"cannot read {what}", self.remedy)

    def _record(self, kind: Any, raw: Mapping[str, Any]) -> Any:
        types, needed = _fields(kind)
        if self.may_lack is not None:
            needed = types.keys() - set(self.may_lack)
            unknown = sorted(raw.keys() - types.keys())
            if unknown:
                raise InputError(f"unknown '{unknown[0][:40]}' in {self.what}", self.remedy)
        missing = sorted(needed - raw.keys())
        if missing:
            raise InputError(f"there is no '{missing[0]}' in {self.what}", self.remedy)
        return kind(**{name: self.value(types[name], raw[name], name) for name in types if name in raw})


def _is_plain(kind: type, raw: Any) -> bool:
    if isinstance(raw, bool):
        return kind is bool
    if kind is float:
        return isinstance(raw, (int, float)) and abs(raw) < _TOO_LARGE  # neither NaN nor infinity
    return isinstance(raw, kind)


@functools.cache
def _fields(kind: Any) -> tuple[Mapping[str, Any], Collection[str]]:
    """The types of a dataclass's fields by name, and the names of those without a default."""
    hints = typing.get_type_hints(kind)
    own = fields(kind)
    needed = {each.name for each in own if each.default is MISSING and each.default_factory is MISSING}
    return {each.name: hints[each.name] for each in own}, frozenset(needed)
