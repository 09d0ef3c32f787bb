# SPDX-License-Identifier: GPL-2.0-or-later
"""The libvirt network of a pool: what it says, and what is to be done about one that says otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vfmigrate.domain import network_xml
from vfmigrate.domain.network_xml import NetworkState
from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress

VFS = [PciAddress(0, 0xE1, 0, function) for function in (2, 3)]
ID = "0c8a2a0e-0000-4000-8000-000000000001"
XML = network_xml.render("net", "data", VFS, ID)
GOOD = NetworkState(XML, XML, autostart=True)


def test_a_network_names_its_vfs_and_its_pool() -> None:
    assert network_xml.vfs(XML) == VFS
    assert network_xml.owner(XML) == "data"
    assert '<forward mode="hostdev" managed="yes">' in XML


def test_a_network_keeps_its_uuid() -> None:
    assert network_xml.identity("net", GOOD) == ID
    assert network_xml.identity("net", replace(GOOD, persistent=None)) == ID


def test_a_new_network_has_a_uuid_made_of_its_name() -> None:
    nothing = NetworkState(None, None, autostart=False)
    assert network_xml.identity("net", nothing) == network_xml.identity("net", nothing)
    assert network_xml.identity("net", nothing) != network_xml.identity("other", nothing)


@pytest.mark.parametrize(
    ("state", "todo"),
    [
        (GOOD, []),
        (NetworkState(None, None, autostart=False), ["define", "start", "autostart"]),
        (replace(GOOD, live=None), ["start"]),
        (replace(GOOD, autostart=False), ["autostart"]),
        (replace(GOOD, live=network_xml.render("net", "data", VFS[:1], ID)), ["restart"]),
        (replace(GOOD, persistent=network_xml.render("net", "data", VFS[::-1], ID)), ["define"]),
        (replace(GOOD, persistent=XML.replace('managed="yes"', "")), ["define"]),
    ],
)
def test_each_difference_of_a_network_has_its_actions(state: NetworkState, todo: list[str]) -> None:
    assert network_xml.differences("net", "data", VFS, state) == todo


@pytest.mark.parametrize(
    "theirs",
    ["<network><name>net</name><forward mode='nat'/></network>", network_xml.render("net", "other", VFS, ID)],
)
def test_a_network_that_vfmigrate_did_not_define_is_refused(theirs: str) -> None:
    with pytest.raises(HostError, match="'net' was not defined by vfmigrate for pool 'data'"):
        network_xml.differences("net", "data", VFS, replace(GOOD, persistent=theirs))


def test_malformed_xml_is_an_error_of_the_host() -> None:
    with pytest.raises(HostError, match="XML of a network is not well-formed"):
        network_xml.differences("net", "data", VFS, replace(GOOD, persistent="<network>"))
