# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's message about a VLAN device, as pyroute2 encodes it. Other devices are tested with the kernel itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from tests.unit.host.test_netlink import Kernel, acknowledged, done, message
from vfmigrate.host.links import Links

NEWLINK = 16


def told(index: int, name: str, *attributes: tuple[str, Any]) -> bytes:
    """The payload of an answer about a device."""
    encoded = ifinfmsg()
    encoded["index"] = index
    encoded["flags"] = 1
    encoded["attrs"] = [("IFLA_IFNAME", name), ("IFLA_MTU", 1500), *attributes]
    encoded.encode()
    return bytes(encoded.data[16:])


VLAN = told(
    12,
    "p0.100",
    ("IFLA_LINK", 7),
    (
        "IFLA_LINKINFO",
        {"attrs": [("IFLA_INFO_KIND", "vlan"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_VLAN_ID", 100)]})]},
    ),
)
VETH = told(13, "v0", ("IFLA_LINK", 7), ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}))


@pytest.fixture
def links() -> Iterator[Links]:
    kernel = Kernel(
        lambda number: [
            message(number, NEWLINK, VLAN, 2) + message(number, NEWLINK, VETH, 2),
            done(number) + acknowledged(number),
        ]
    )
    links = Links(sock=kernel.theirs)
    yield links
    links.close()
    kernel.close()


def test_a_vlan_device_is_found_by_the_device_that_it_is_on(links: Links) -> None:
    (found,) = links.vlan_devices(7)
    assert (found.index, found.name, found.kind, found.lower, found.vlan) == (12, "p0.100", "vlan", 7, 100)
