# SPDX-License-Identifier: GPL-2.0-or-later
"""Marks in metadata: what is stamped is what is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from vfmigrate.domain import metadata
from vfmigrate.domain.metadata import Mark
from vfmigrate.model import strategy
from vfmigrate.model.pci import PciAddress

WORDS = st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)
ADDRESSES = st.builds(
    PciAddress, st.integers(0, 0xFFFF), st.integers(0, 255), st.integers(0, 31), st.integers(0, 7)
)
MARKS = st.builds(
    Mark,
    mac=st.just("52:54:00:aa:bb:cc"),
    address=st.none() | ADDRESSES,
    pool=st.none() | WORDS,
    vlan=st.none() | st.integers(1, 4094),
    trunks=st.frozensets(st.integers(0, 4094), max_size=5).map(lambda trunks: tuple(sorted(trunks))),
    strategy=st.none() | st.sampled_from(strategy.NAMES),
    psid=st.none() | WORDS,
    firmware=st.none() | WORDS,
    msix=st.none() | st.integers(1, 2048),
)


def as_libvirt_keeps_it(text: str) -> etree._Element:
    """Put element and children into our namespace, as virDomainSetMetadata does."""
    element = etree.fromstring(text)
    for each in element.iter("vfs", "vf"):
        each.tag = "{" + metadata.URI + "}" + str(each.tag)
    domain = etree.fromstring("<domain><metadata/></domain>")
    domain[0].append(element)
    return domain


@given(st.lists(MARKS, max_size=8).map(tuple))
def test_written_metadata_is_read_back(marks: tuple[Mark, ...]) -> None:
    assert metadata.read(as_libvirt_keeps_it(metadata.write(marks))) == marks


def test_metadata_of_others_is_ignored() -> None:
    domain = etree.fromstring(
        "<domain><metadata><vfs xmlns='urn:other'><vf mac='x'/></vfs></metadata></domain>"
    )
    assert metadata.read(domain) == ()
