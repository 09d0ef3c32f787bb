# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to vfmigrated and its answers in the metadata of a libvirt network: one element each.

Pure. The text of an element is a line of the daemon's protocol (protocol.py). Its namespace has the ID of the request,
so that each request and each answer has a place of its own. Every user who may open a read-only connection to libvirt
can read them.
"""

from __future__ import annotations

import re
from html import escape
from typing import Optional, TextIO

from vfmigrate.domain import network_xml, xml_parser
from vfmigrate.errors import InputError

REQUEST = "urn:vfmigrate:ask:"
ANSWER = "urn:vfmigrate:answer:"
PREFIX = "vfmigrate-message"

#: the longest request; ours have a few hundred bytes
MAX_REQUEST_BYTES = 16384
#: the longest request as libvirt has it: with a tag, and its characters escaped
MAX_ELEMENT_BYTES = 2 * MAX_REQUEST_BYTES
#: the longest answer: host facts of some thousand VFs, and a quarter of the longest text that libvirt accepts
MAX_ANSWER_BYTES = 1048576

# libvirt writes XML attributes between either quotes
_LONGEST_URI = 4096
_IN_TEXT = re.compile(f"[\"']((?:{REQUEST}|{ANSWER})[^\"'<>&]{{0,{_LONGEST_URI}}})[\"']")
_PIECE = 1048576
_NAME = re.compile(f"({REQUEST}|{ANSWER})([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})")


def request_id(uri: str) -> Optional[str]:
    """The ID of the request in a namespace; None when the namespace is not that of a request."""
    name = _NAME.fullmatch(uri)
    return name.group(2) if name is not None and name.group(1) == REQUEST else None


def is_ours(uri: str) -> bool:
    """Whether a namespace is one of requests and answers, well-formed or not."""
    return uri.startswith((REQUEST, ANSWER))


def wrap(line: bytes, limit: int) -> str:
    """The element for a line. Raises InputError when the line is longer than `limit` bytes."""
    if len(line) > limit:
        raise InputError(f"a message of {len(line)} bytes is too long to be sent through libvirt")
    return f"<message>{escape(line.decode().strip(), quote=False)}</message>"


def unwrap(element: str, limit: int) -> bytes:
    """The line in an element. Raises InputError for anything else, and for a line longer than `limit` bytes."""
    if len(element) > 2 * limit:  # more than the line with its escapes
        raise InputError("a message that came through libvirt is too long")
    text = xml_parser.text_of(element, "a message that came through libvirt")
    if len(text) > limit:
        raise InputError("a message that came through libvirt is too long")
    return text.encode() + b"\n"


def uris(xml: str) -> list[str]:
    """The namespaces of the requests and answers in a network's metadata, from the network's XML."""
    return [uri for uri in network_xml.metadata_namespaces(xml) if is_ours(uri)]


def uris_in_file(file: TextIO) -> list[str]:
    """As `uris`, from what libvirt has saved of a network, which can be larger than any XML that is parsed."""
    found: dict[str, None] = {}
    rest = ""
    while piece := file.read(_PIECE):
        text = rest + piece
        found.update(dict.fromkeys(_IN_TEXT.findall(text)))
        rest = text[-2 * _LONGEST_URI :]
    return list(found)
