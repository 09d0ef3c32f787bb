# SPDX-License-Identifier: GPL-2.0-or-later
"""The positions of elements in XML text, and edits that leave the rest of the text as it is, byte for byte.

An XML library that serializes a tree formats every tag again. An administrator who is shown the difference between two
definitions must see only the change. Pure; hostile XML is refused by `domain_xml.read` before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Optional, Union
from xml.parsers import expat

from vfmigrate.errors import InputError

# A start tag: attributes in quotes may hold a '>'.
_START_TAG = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")

_TAG_NAME = re.compile(r"<[^\s/>]+")
_ATTRIBUTE = re.compile(r"\s(?P<key>[^\s=]+)\s*=\s*(?P<quote>[\"'])(?P<value>.*?)(?P=quote)", re.DOTALL)


@dataclass(eq=False)
class Element:
    """An element by its offsets in the text, in bytes. Names in a namespace are 'URI name'."""

    name: str
    attributes: dict[str, str]
    start: int
    #: where its content begins and ends; both are the end of the tag of an element without content
    inner_start: int = 0
    inner_end: int = 0
    end: int = 0
    empty: bool = False
    children: list[Element] = field(default_factory=list)

    def all(self, path: str) -> Iterator[Element]:
        """The elements at a path of plain names, such as 'devices/interface'; '*' is any name."""
        first, _, rest = path.partition("/")
        for child in self.children:
            if first in ("*", child.name):
                yield from child.all(rest) if rest else (child,)

    def first(self, path: str) -> Optional[Element]:
        """The first element at a path, or None."""
        return next(self.all(path), None)

    def get(self, path: str, attribute: str) -> Optional[str]:
        """An attribute of the first element at a path, or None."""
        found = self.first(path)
        return found.attributes.get(attribute) if found is not None else None


class Markup:
    """XML text with its elements, and the edits made so far."""

    def __init__(self, text: Union[str, bytes]) -> None:
        """Read XML. Raises InputError when it is not well-formed."""
        self._data = text.encode("utf-8") if isinstance(text, str) else text
        self._changes: list[tuple[int, int, bytes]] = []
        document = Element("", {}, 0)
        self._open = [document]
        self._parser = expat.ParserCreate("utf-8", " ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        try:
            self._parser.Parse(self._data, True)
        except expat.ExpatError as error:  # stricter about names than libxml2
            raise InputError(f"the XML is not well-formed: {error}") from None
        self.root = document.children[0]

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        start = self._parser.CurrentByteIndex
        tag = _START_TAG.match(self._data, start)
        end = tag.end() if tag is not None else len(self._data)
        empty = self._data[:end].endswith(b"/>")
        element = Element(name, attributes, start, end, end, end, empty)
        self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, _name: str) -> None:
        element = self._open.pop()
        if not element.empty:
            element.inner_end = self._parser.CurrentByteIndex
            element.end = self._data.index(b">", element.inner_end) + 1

    def indent(self, element: Element) -> str:
        """The indentation of an element; '' if something else is before it on its line."""
        before = self._data[: element.start].rpartition(b"\n")[2].decode()
        return before if not before.strip() else ""

    def insert_before(self, element: Element, lines: list[str]) -> None:
        """Insert lines before an element, with its indentation, in front of the white space before it."""
        indent = self.indent(element)
        at = len(self._data[: element.start].rstrip())
        self._change(at, at, "".join(f"\n{indent}{line}" for line in lines))

    def insert_after(self, element: Element, lines: list[str]) -> None:
        """Insert lines after an element, with its indentation."""
        indent = self.indent(element)
        self._change(element.end, element.end, "".join(f"\n{indent}{line}" for line in lines))

    def append(self, element: Element, lines: list[str]) -> None:
        """Append lines to the content of an element. `remove` takes away just what this adds."""
        outer = self.indent(element)
        text = "".join(f"\n{outer}  {line}" for line in lines)
        if element.empty:
            tag = self.tag(element)[:-2]
            self._change(element.start, element.end, f"{tag}>{text}\n{outer}</{tag[1:].split()[0]}>")
            return
        at = len(self._data[: element.inner_end].rstrip())
        self._change(at, at, text)

    def is_blank(self, element: Element, but: Sequence[Element] = ()) -> bool:
        """Whether an element has no content but white space and these children, which are in order."""
        begin, pieces = element.inner_start, []
        for child in but:
            pieces.append(self._data[begin : child.start])
            begin = child.end
        pieces.append(self._data[begin : element.inner_end])
        return not b"".join(pieces).strip()

    def remove(self, element: Element) -> None:
        """Remove an element, with the white space before it."""
        start = len(self._data[: element.start].rstrip())
        self._change(start, element.end, "")

    def text_of(self, element: Element) -> str:
        """An element's own text, from its start tag to its end."""
        return self._data[element.start : element.end].decode("utf-8")

    def set_attributes(self, element: Element, values: Mapping[str, Optional[str]]) -> None:
        """Set attributes in a start tag, or remove them (None); what is around them stays the same."""
        tag = self.tag(element)
        name = _TAG_NAME.match(tag)
        begin = name.end() if name is not None else 1
        present = {found["key"]: found for found in _ATTRIBUTE.finditer(tag, begin)}
        for key, value in sorted(
            values.items(), key=lambda each: -present[each[0]].start() if each[0] in present else 0
        ):
            found = present.get(key)
            if found is not None and value is None:
                # with the white space before it and the quote after it
                tag = tag[: found.start("key")].rstrip() + tag[found.end("value") + 1 :]
            elif found is not None:
                tag = f"{tag[: found.start('value')]}{value}{tag[found.end('value') :]}"
        added = "".join(
            f" {key}='{value}'" for key, value in values.items() if key not in present and value is not None
        )
        self.replace_tag(element, tag[:begin] + added + tag[begin:])

    def tag(self, element: Element) -> str:
        """The start tag of an element."""
        return self._data[element.start : element.inner_start].decode("utf-8")

    def replace_tag(self, element: Element, tag: str) -> None:
        """Replace the start tag of an element."""
        self._change(element.start, element.inner_start, tag)

    def replace(self, element: Element, text: str) -> None:
        """Replace an element by text."""
        self._change(element.start, element.end, text)

    def _change(self, start: int, end: int, text: str) -> None:
        self._changes.append((start, end, text.encode("utf-8")))

    def text(self) -> str:
        """The text with all edits."""
        data = self._data
        for start, end, text in sorted(self._changes, key=lambda change: change[:2], reverse=True):
            data = data[:start] + text + data[end:]
        return data.decode("utf-8")
