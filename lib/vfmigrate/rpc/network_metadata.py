# SPDX-License-Identifier: GPL-2.0-or-later
"""How a request to vfmigrated and its answer look while they travel through libvirt: one element of metadata each.

Pure. What is asked and answered is a line of the daemon's own protocol (protocol.py), as the text of the element; the
element's namespace names the letter. So a question has a place of its own, and its answer another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Optional

from vfmigrate.domain import network_xml, xml_parser
from vfmigrate.errors import InputError

ASK = "urn:vfmigrate:ask:"
ANSWER = "urn:vfmigrate:answer:"
PREFIX = "vfmigrate-letter"

#: the longest question; those that we ask take a few hundred bytes
MAX_ASK_BYTES = 16384
#: the longest answer: facts of some thousand VFs, and a quarter of what libvirt takes for one text
MAX_ANSWER_BYTES = 1048576

_NAME = re.compile(f"({ASK}|{ANSWER})([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})")


def ask_id(uri: str) -> Optional[str]:
    """The question that a namespace names, or None when it names something else."""
    name = _NAME.fullmatch(uri)
    return name.group(2) if name is not None and name.group(1) == ASK else None


def letter_id(uri: str) -> Optional[str]:
    """The question that a namespace belongs to, as question or as answer; None for anybody else's."""
    name = _NAME.fullmatch(uri)
    return name.group(2) if name is not None else None


def wrap(line: bytes, limit: int) -> str:
    """The element that carries a line. Raises InputError when the line is longer than `limit` bytes."""
    if len(line) > limit:
        raise InputError(f"a message of {len(line)} bytes is too long to go through libvirt")
    return f"<letter>{escape(line.decode().strip())}</letter>"


def unwrap(element: str, limit: int) -> bytes:
    """The line that an element carries. Raises InputError for anything that is none, or is longer than `limit`."""
    if len(element) > 2 * limit:  # a little more than the line with its escapes
        raise InputError("a message that came through libvirt is too long")
    text = xml_parser.text_of(element, "a message that came through libvirt")
    if len(text) > limit:
        raise InputError("a message that came through libvirt is too long")
    return text.encode() + b"\n"


def uris(xml: str) -> Iterator[str]:
    """The namespaces of the letters that lie in a network's metadata, by its XML."""
    return (uri for uri in network_xml.metadata_namespaces(xml) if letter_id(uri) is not None)
