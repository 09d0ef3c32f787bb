# SPDX-License-Identifier: GPL-2.0-or-later
"""The one XML parser of the library. Everyone reads XML with it, and nobody makes another.

XML comes from whoever can talk to libvirt, so it is read without entities, network or document types, and no further
than a limit. Errors quote nothing of it: it can hold passwords.
"""

from __future__ import annotations

from typing import Union

from lxml import etree

from vfmigrate.errors import InputError
from vfmigrate.model.limits import MAX_XML_BYTES


def parse(xml: Union[str, bytes], what: str = "the XML") -> etree._Element:
    """The root element of `xml`; errors call it `what`.

    Raises InputError for XML that is malformed or too large, or has a document type declaration.
    """
    data = xml.encode("utf-8") if isinstance(xml, str) else xml
    if len(data) > MAX_XML_BYTES:
        raise InputError(f"{what} has {len(data)} bytes", f"at most {MAX_XML_BYTES} are read")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, encoding="utf-8"
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        # The parser's own words quote what it stumbled over, which may be a password.
        line, column = error.position
        raise InputError(f"{what} is not well-formed at line {line}, column {column}") from None
    except ValueError as error:
        raise InputError(f"{what} is not well-formed: {type(error).__name__}") from None
    # The same bytes can be in a comment or in CDATA, so the parser is asked. It bounds what entities cost meanwhile.
    if root.getroottree().docinfo.internalDTD is not None:
        raise InputError(f"{what} has a document type declaration", "remove it; libvirt writes none")
    return root


def text_of(xml: Union[str, bytes], what: str = "the XML") -> str:
    """The text of an element that has nothing else. Raises InputError."""
    root = parse(xml, what)
    if len(root) or root.text is None:
        raise InputError(f"{what} is not an element with text only")
    return str(root.text)
