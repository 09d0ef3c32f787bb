# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to vfmigrated and its answers in the metadata of a libvirt network: one element each.

Pure. The text of an element is a line of the daemon's protocol (protocol.py). Its namespace has the ID of the request,
so that each request and each answer has a place of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Optional

from vfmigrate.domain import network_xml, xml_parser
from vfmigrate.errors import InputError

REQUEST = "urn:vfmigrate:ask:"
ANSWER = "urn:vfmigrate:answer:"
PREFIX = "vfmigrate-message"

#: the longest request; ours have a few hundred bytes
MAX_REQUEST_BYTES = 16384
#: the longest answer: host facts of some thousand VFs, and a quarter of the longest text that libvirt accepts
MAX_ANSWER_BYTES = 1048576

_NAME = re.compile(f"({REQUEST}|{ANSWER})([0-9a-f]{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}})")


def request_id(uri: str) -> Optional[str]:
    """The ID of the request in a namespace; None when the namespace is not that of a request."""
    name = _NAME.fullmatch(uri)
    return name.group(2) if name is not None and name.group(1) == REQUEST else None


def message_id(uri: str) -> Optional[str]:
    """The ID of the request to which a namespace belongs, as request or as answer; None for other namespaces."""
    name = _NAME.fullmatch(uri)
    return name.group(2) if name is not None else None


def wrap(line: bytes, limit: int) -> str:
    """The element for a line. Raises InputError when the line is longer than `limit` bytes."""
    if len(line) > limit:
        raise InputError(f"a message of {len(line)} bytes is too long to be sent through libvirt")
    return f"<message>{escape(line.decode().strip())}</message>"


def unwrap(element: str, limit: int) -> bytes:
    """The line in an element. Raises InputError for anything else, and for a line longer than `limit` bytes."""
    if len(element) > 2 * limit:  # more than the line with its escapes
        raise InputError("a message that came through libvirt is too long")
    text = xml_parser.text_of(element, "a message that came through libvirt")
    if len(text) > limit:
        raise InputError("a message that came through libvirt is too long")
    return text.encode() + b"\n"


def uris(xml: str) -> Iterator[str]:
    """The namespaces of the requests and answers in a network's metadata, from the network's XML."""
    return (uri for uri in network_xml.metadata_namespaces(xml) if message_id(uri) is not None)
