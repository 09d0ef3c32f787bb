# SPDX-License-Identifier: GPL-2.0-or-later
"""The XML parser: what it refuses, what its errors quote, and that the library has no other one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vfmigrate.domain import xml_parser
from vfmigrate.errors import InputError
from vfmigrate.model.limits import MAX_XML_BYTES

LIBRARY = Path(__file__).parents[3] / "lib" / "vfmigrate"
#: the calls of lxml and the standard library that read XML; those that build or write it are free to all
PARSING = re.compile(
    r"\b(etree|objectify)\.(fromstring|fromstringlist|parse|iterparse|XML|XMLParser|HTML\w*)\b"
    r"|\b(xml\.(dom|sax|etree)|minidom)\b"
)


def test_no_other_module_parses_xml() -> None:
    others = {
        str(module.relative_to(LIBRARY)): PARSING.findall(module.read_text())
        for module in LIBRARY.rglob("*.py")
        if module != LIBRARY / "domain" / "xml_parser.py"
    }
    assert {module for module, found in others.items() if found} == set()


def test_entities_are_not_resolved() -> None:
    with pytest.raises(InputError, match="the XML has a document type declaration; remove it"):
        xml_parser.parse("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/shadow'>]><a>&b;</a>")


@pytest.mark.parametrize("inner", ["<!-- <!DOCTYPE x> -->", "<![CDATA[<!DOCTYPE x [<!ENTITY y 'z'>]>]]>"])
def test_a_document_type_that_is_only_mentioned_is_no_declaration(inner: str) -> None:
    assert xml_parser.parse(f"<!-- <!DOCTYPE a> --><a>{inner}</a>").tag == "a"


def test_entities_that_grow_without_end_are_refused_at_once() -> None:
    entities = "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12))
    with pytest.raises(InputError):
        xml_parser.parse(f"<!DOCTYPE a [<!ENTITY a0 'xxxxxxxxxx'>{entities}]><a b='&a11;'>&a11;</a>")


def test_malformed_xml_is_not_quoted() -> None:
    with pytest.raises(InputError, match=r"^the answer is not well-formed at line 1, column \d+$") as refused:
        xml_parser.parse("<graphics passwd='secret'", "the answer")
    assert "secret" not in str(refused.value)


def test_xml_beyond_the_limit_is_refused() -> None:
    with pytest.raises(InputError, match="at most"):
        xml_parser.parse(b" " * (MAX_XML_BYTES + 1))


@pytest.mark.parametrize("xml", ["<a><b/></a>", "<a/>", "<a>text<b/></a>"])
def test_text_of_refuses_an_element_with_anything_but_text(xml: str) -> None:
    with pytest.raises(InputError, match="the XML is not an element with text only"):
        xml_parser.text_of(xml)


def test_text_of_unescapes() -> None:
    assert xml_parser.text_of("<a>1 &lt; 2</a>") == "1 < 2"
