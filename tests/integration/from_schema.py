# SPDX-License-Identifier: GPL-2.0-or-later
"""XML in all shapes that a RELAX NG schema allows, from random choices.

Reads libvirt's own schemas, so that a form that nobody thought of is generated as well. Covers the part of RELAX NG
that they use (https://relaxng.org/spec-20011203.html), and the datatypes of XML Schema in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Optional, TypeVar, Union

from lxml import etree

try:
    from re import _parser as sre_parse  # type: ignore[attr-defined]  # the same under its new name
except ImportError:
    import sre_parse

_RNG = "{http://relaxng.org/ns/structure/1.0}"
# Elements nested deeper get only what they must have.
_MAX_DEPTH = 6
# The range of each datatype that needs none in the schema.
_RANGES = {
    "short": (-(1 << 15), (1 << 15) - 1),
    "int": (-(1 << 31), (1 << 31) - 1),
    "long": (-(1 << 63), (1 << 63) - 1),
    "integer": (-(1 << 63), (1 << 63) - 1),
    "positiveInteger": (1, (1 << 63) - 1),
    "unsignedShort": (0, (1 << 16) - 1),
    "unsignedInt": (0, (1 << 32) - 1),
    "unsignedLong": (0, (1 << 64) - 1),
}
#: text, among it what looks like markup
TEXTS = (
    "",
    "plain",
    "<!DOCTYPE x>",
    "<!DOCTYPE x [<!ENTITY y 'z'>]>",
    "a]]>b",
    "<vf/>",
    "'\"",
    "&amp;",
    "<interface type='hostdev'>",
    " bus='0x01' ",
    "ünï\u2028\u00a0\U0001f600",
    "two\nlines",
)
NAMES = ("vf", "vfs", "instance", "a", "network", "_x-1.0", "überall")
URIS = (None, "urn:another", "http://example.org/app/1.0")
# What may be between two elements and has no meaning.
GAPS = (
    "",
    "",
    "\n  ",
    "\n\n\t",
    " ",
    "\n    <!-- <interface type='hostdev'><!DOCTYPE x> -->",
    "<!---->\n",
    "<?editor mark='hostdev'?>",
)
_Any = TypeVar("_Any")


class Choices:
    """Random choices; equal for an equal seed."""

    def __init__(self, seed: int, likely: float) -> None:
        """`likely`: how likely it is that what may be there is there, from 0 to 1."""
        self._random = Random(seed)
        self.likely = likely

    def maybe(self, likely: Optional[float] = None) -> bool:
        """Whether something is to be there."""
        return self._random.random() < (self.likely if likely is None else likely)

    def one(self, of: Sequence[_Any]) -> _Any:
        """One of several."""
        return self._random.choice(of)

    def number(self, low: int, high: int) -> int:
        """A number in a range, more often at its ends."""
        return self._random.choice((low, high, self._random.randint(low, high)))

    def shuffled(self, them: Iterable[_Any]) -> list[_Any]:
        """The same in any order."""
        mixed = list(them)
        self._random.shuffle(mixed)
        return mixed


@dataclass
class Node:
    """An element to be written."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    #: elements and text, in order
    content: list[Union[Node, str]] = field(default_factory=list)
    #: the namespace of the name, if it has one
    uri: Optional[str] = None


@dataclass(frozen=True)
class _Attribute:
    name: str
    value: str


_Item = Union[Node, str, _Attribute]


class Schema:
    """The named patterns of a schema, with those of the files that it includes."""

    def __init__(self, path: Path) -> None:
        self._patterns: dict[str, list[etree._Element]] = {}
        self._read(path, set())

    def _read(self, path: Path, seen: set[Path]) -> None:
        if path in seen:
            return
        seen.add(path)
        for each in etree.parse(str(path)).getroot().iter(f"{_RNG}define", f"{_RNG}include"):
            if each.tag == f"{_RNG}include":
                self._read(path.parent / each.get("href", ""), seen)
            else:
                self._patterns.setdefault(each.get("name", ""), list(_patterns(each)))

    def element(self, choices: Choices, pattern: str) -> Node:
        """An element of the pattern of this name."""
        (node,) = (item for item in self._named(choices, pattern, 0) if isinstance(item, Node))
        return node

    def references(self, pattern: str) -> list[str]:
        """The names of the patterns that a pattern refers to, at any depth of its own text."""
        found = (each.iter(f"{_RNG}ref") for each in self._patterns[pattern])
        return [ref.get("name", "") for refs in found for ref in refs]

    def _named(self, choices: Choices, name: str, depth: int) -> list[_Item]:
        return self._group(choices, self._patterns[name], depth)

    def _group(self, choices: Choices, patterns: Iterable[etree._Element], depth: int) -> list[_Item]:
        return [item for each in patterns for item in self._items(choices, each, depth)]

    def _items(  # noqa: PLR0911 - one for each kind of pattern
        self, choices: Choices, pattern: etree._Element, depth: int
    ) -> list[_Item]:
        """What a pattern stands for."""
        kind, inner = str(pattern.tag).replace(_RNG, ""), list(_patterns(pattern))
        if kind == "ref":
            return self._named(choices, pattern.get("name", ""), depth)
        if kind == "group":
            return self._group(choices, inner, depth)
        if kind == "interleave":
            parts = [self._items(choices, each, depth) for each in inner]
            return [item for part in choices.shuffled(parts) for item in part]
        if kind == "choice":
            possible = [each for each in inner if self._possible(each)]
            return self._items(choices, choices.one(possible), depth) if possible else []
        if kind == "optional":
            there = depth < _MAX_DEPTH and choices.maybe() and all(map(self._possible, inner))
            return self._group(choices, inner, depth) if there else []
        if kind in ("zeroOrMore", "oneOrMore"):
            number = int(kind == "oneOrMore")
            while depth < _MAX_DEPTH and number < 3 and choices.maybe():
                number += 1
            return [item for _ in range(number) for item in self._group(choices, inner, depth)]
        if kind == "element":
            return [self._element(choices, pattern, inner, depth)]
        if kind == "attribute":
            return [self._attribute(choices, pattern, inner, depth)]
        return [] if kind == "empty" else [self._text(choices, pattern, kind)]

    def _possible(self, pattern: etree._Element) -> bool:
        """Whether a pattern allows anything; some are placeholders (<notAllowed/>) that another schema overrides."""
        kind = str(pattern.tag).replace(_RNG, "")
        if kind == "ref":
            return all(map(self._possible, self._patterns[pattern.get("name", "")]))
        if kind == "choice":
            return any(map(self._possible, _patterns(pattern)))
        if kind in ("group", "attribute", "interleave"):
            return all(map(self._possible, _patterns(pattern)))
        return kind != "notAllowed"

    def _element(
        self, choices: Choices, pattern: etree._Element, inner: list[etree._Element], depth: int
    ) -> Node:
        node = Node(pattern.get("name") or choices.one(NAMES))
        if not pattern.get("name"):
            inner = inner[1:]  # the first is the class of its name
            node.uri = choices.one(URIS)
        for item in self._group(choices, inner, depth + 1):
            if isinstance(item, _Attribute):
                node.attributes.setdefault(item.name, item.value)
            else:
                node.content.append(item)
        return node

    def _attribute(
        self, choices: Choices, pattern: etree._Element, inner: list[etree._Element], depth: int
    ) -> _Attribute:
        name = pattern.get("name")
        if name is None:
            return _Attribute(choices.one(NAMES), choices.one(TEXTS))
        items = self._group(choices, inner, depth) if inner else [choices.one(TEXTS)]
        return _Attribute(name, "".join(item for item in items if isinstance(item, str)))

    def _text(self, choices: Choices, pattern: etree._Element, kind: str) -> str:
        if kind == "value":
            return pattern.text or ""
        if kind == "text":
            return choices.one(TEXTS)
        if kind == "data":
            return self._data(choices, pattern)
        if kind == "list":
            return " ".join(str(each) for each in self._group(choices, _patterns(pattern), _MAX_DEPTH))
        raise NotImplementedError(f"RELAX NG {kind} at line {pattern.sourceline}")

    def _data(self, choices: Choices, pattern: etree._Element) -> str:
        """A value of a datatype of XML Schema with its parameters."""
        parameters = {each.get("name", ""): each.text or "" for each in pattern.iterfind(f"{_RNG}param")}
        kind = pattern.get("type", "")
        if kind in _RANGES:
            low, high = _RANGES[kind]
            low = max(int(parameters.get("minInclusive", low)), -1)
            high = int(parameters.get("maxInclusive", high))
            number = str(choices.number(low, high))
            fits = re.fullmatch(parameters.get("pattern", ".*"), number)
            return number if fits else str(max(low, 1))
        if "pattern" in parameters:
            return _matching(choices, sre_parse.parse(parameters["pattern"]))
        if kind == "dateTime":
            return "2026-01-02T03:04:05"
        if kind == "NCName":
            return choices.one(NAMES)
        if kind == "string":
            return choices.one(TEXTS)
        raise NotImplementedError(f"datatype {kind} of XML Schema")


def _patterns(parent: etree._Element) -> Iterator[etree._Element]:
    return (each for each in parent if isinstance(each.tag, str) and each.tag.startswith(_RNG))


def _matching(choices: Choices, expression: Any) -> str:
    """Text that a regular expression matches, which is given as its syntax tree."""
    return "".join(_token(choices, str(kind), argument) for kind, argument in expression)


def _token(choices: Choices, kind: str, argument: Any) -> str:  # noqa: PLR0911 - one for each kind of token
    if kind == "LITERAL":
        return chr(argument)
    if kind == "NOT_LITERAL":
        return choices.one([each for each in "ab1 ü" if ord(each) != argument])
    if kind == "ANY":
        return choices.one("ab1 -ü")
    if kind == "IN":
        return _in_set(choices, argument)
    if kind == "BRANCH":
        return _matching(choices, choices.one(argument[1]))
    if kind == "SUBPATTERN":
        return _matching(choices, argument[-1])
    if kind == "MAX_REPEAT":
        low, high, inner = argument
        number = choices.number(low, min(int(high), low + 12))
        return "".join(_matching(choices, inner) for _ in range(number))
    raise NotImplementedError(f"{kind} in a regular expression")


def _in_set(choices: Choices, members: Any) -> str:
    kinds = [str(kind) for kind, _ in members]
    if kinds[0] == "NEGATE":
        excluded = {chr(argument) for kind, argument in members if str(kind) == "LITERAL"}
        return choices.one([each for each in "ab1-ü" if each not in excluded])
    kind, argument = choices.one(members)
    if str(kind) == "RANGE":
        return chr(choices.number(*argument))
    return chr(argument) if str(kind) == "LITERAL" else choices.one(" 1a")


# -- as text, with the freedom that XML leaves


def written(choices: Choices, node: Node) -> str:
    """The text of an element: one of the ways to write it."""
    prefix, declared = "", []
    if node.uri is not None:
        prefix = choices.one(("vfmigrate:", "ns1:", "a:"))
        declared = [(f"xmlns:{prefix[:-1]}", node.uri)]
    elif choices.maybe(0.05):
        declared = [("xmlns:unused", "urn:of:nobody")]
    words = "".join(
        _attribute_text(choices, key, value)
        for key, value in (*declared, *choices.shuffled(node.attributes.items()))
    )
    tag = f"<{prefix}{node.name}{words}"
    if not node.content and choices.maybe(0.7):
        return f"{tag}{choices.one(('', ' '))}/>"
    elements_only = all(isinstance(each, Node) for each in node.content)
    parts = []
    for each in node.content:
        parts.append(choices.one(GAPS) if elements_only else "")
        parts.append(written(choices, each) if isinstance(each, Node) else _content_text(choices, each))
    parts.append(choices.one(GAPS) if elements_only and node.content else "")
    return f"{tag}>{''.join(parts)}</{prefix}{node.name}>"


def _attribute_text(choices: Choices, key: str, value: str) -> str:
    quote = choices.one("'\"")
    text = value.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "&#10;")
    text = text.replace(quote, "&#39;" if quote == "'" else "&quot;")
    if text and choices.maybe(0.02):
        text = f"&#x{ord(text[0]):x};{text[1:]}" if text[0] != "&" else text
    return f"{choices.one((' ', ' ', chr(10) + '      '))}{key}{choices.one(('=', '=', ' = '))}{quote}{text}{quote}"


def _content_text(choices: Choices, text: str) -> str:
    if text and "]]>" not in text and choices.maybe(0.5):
        return f"<![CDATA[{text}]]>"
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
