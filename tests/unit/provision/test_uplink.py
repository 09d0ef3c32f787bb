# SPDX-License-Identifier: GPL-2.0-or-later
"""When the uplink of a pool is plugged, and when not."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import pytest

from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import POOL
from vfmigrate.converge import uplinks
from vfmigrate.errors import Refused
from vfmigrate.host.links import Link
from vfmigrate.provision import uplink

NAME = "enp1s0f0np0"


@pytest.fixture
def memory() -> MemoryHost:
    return MemoryHost()


def the_uplink(memory: MemoryHost, master: Optional[str] = None) -> Link:
    """The uplink of the pool, enslaved to a device of this name."""
    (link,) = uplinks.devices(memory.host, POOL)
    if master is not None:
        memory.links.links[77] = Link(77, master, True, 1500, "02:00:00:00:00:01")
        link = memory.links.links[link.index] = replace(link, master=77)
    return link


def steps(memory: MemoryHost, link: Link, in_use: str = "refuse") -> list[str]:
    return [step.text for step in uplink.steps(memory.host, replace(POOL, uplink_in_use=in_use), link)]


BOTH = [f"bring {NAME} up", f"plug {NAME} into br-data"]


@pytest.mark.parametrize("master", [None, "ovs-system"])
def test_an_uplink_that_nobody_uses_is_plugged(memory: MemoryHost, master: Optional[str]) -> None:
    assert steps(memory, the_uplink(memory, master)) == BOTH


@pytest.mark.parametrize(
    ("addresses", "routes", "has"),
    [
        (["192.0.2.5/24"], [], "the address 192.0.2.5/24"),
        (["192.0.2.5/24", "2001:db8::5/64"], ["default"], "the address 192.0.2.5/24, 2001:db8::5/64"),
        ([], ["default", "10.0.0.0/8"], "a route to default, 10.0.0.0/8"),
    ],
)
def test_an_uplink_with_addresses_or_routes_is_refused(
    memory: MemoryHost, addresses: list[str], routes: list[str], has: str
) -> None:
    link = the_uplink(memory)
    memory.links.ip_addresses[link.index], memory.links.ip_routes[link.index] = addresses, routes
    with pytest.raises(Refused) as caught:
        steps(memory, link)
    assert caught.value.problem == (
        f"uplink {NAME} of pool 'data' has {has}, which would stop working as a port of br-data"
    )
    assert "set uplink_in_use = plug in section [pool data]" in caught.value.remedy
    assert steps(memory, link, "plug") == BOTH
    memory.ovs.uplinks[NAME] = "br-data"
    assert steps(memory, link) == BOTH[:1]  # it is there already


def test_an_uplink_that_is_a_member_of_a_bond_is_refused(memory: MemoryHost) -> None:
    link = the_uplink(memory, "bond0")
    for in_use in ("refuse", "plug"):  # the kernel would not do it either
        with pytest.raises(Refused) as caught:
            steps(memory, link, in_use)
        assert caught.value.problem == (
            f"uplink {NAME} of pool 'data' belongs to bond0, so it cannot be a port of br-data"
        )
        assert "set uplink = bond0 in section [pool data]" in caught.value.remedy


def test_the_bond_of_the_pool_is_an_uplink_like_any_other(memory: MemoryHost) -> None:
    the_uplink(memory, "bond0")
    pool = replace(POOL, uplink="bond0")
    (bond,) = uplinks.devices(memory.host, pool)
    assert [step.text for step in uplink.steps(memory.host, pool, bond)] == ["plug bond0 into br-data"]


def test_addresses_of_a_plugged_uplink_are_a_warning(memory: MemoryHost) -> None:
    link = the_uplink(memory)
    memory.links.ip_addresses[link.index] = ["192.0.2.5/24"]
    assert uplink.cut_off(memory.host, POOL, link) == []
    memory.ovs.uplinks[NAME] = "br-data"
    (warning,) = uplink.cut_off(memory.host, POOL, link)
    assert warning.endswith("to its address 192.0.2.5/24: give the address to br-data")
    memory.links.ip_addresses.clear()
    assert uplink.cut_off(memory.host, POOL, link) == []


def vlan_device(memory: MemoryHost, link: Link, vlan: int) -> Link:
    device = Link(
        90 + vlan, f"{link.name}.{vlan}", True, 1500, link.address, kind="vlan", lower=link.index, vlan=vlan
    )
    return memory.links.links.setdefault(device.index, device)


def test_an_uplink_whose_vlan_device_takes_the_frames_of_guests_is_refused(memory: MemoryHost) -> None:
    link = the_uplink(memory)
    device = vlan_device(memory, link, 42)
    memory.links.ip_addresses[device.index] = ["192.0.2.5/24"]
    with pytest.raises(Refused) as caught:
        steps(memory, link)
    assert caught.value.problem == (
        f"{NAME}.42 (with the address 192.0.2.5/24) on uplink {NAME} of pool 'data' receives all frames of VLAN 42, "
        "so guests of that VLAN would receive none"
    )
    assert (
        "ovs-vsctl add-port br-data vlan42 tag=42 -- set interface vlan42 type=internal; "
        f"then: ip link del {NAME}.42"
    ) in caught.value.remedy
    assert steps(memory, link, "plug") == BOTH
    memory.ovs.uplinks[NAME] = "br-data"
    (warning,) = uplink.cut_off(memory.host, POOL, link)
    assert warning.startswith(f"{NAME}.42 on uplink {NAME} of pool 'data' receives all frames of VLAN 42")


def test_a_vlan_device_of_no_vlan_of_the_pool_stays(memory: MemoryHost) -> None:
    link = the_uplink(memory)
    vlan_device(memory, link, 7)
    assert steps(memory, link) == BOTH
    assert uplink.cut_off(memory.host, POOL, link) == []


def test_a_bond_is_complete_when_it_has_the_ports_of_the_pool(memory: MemoryHost) -> None:
    pool = replace(POOL, uplink="bond0")
    assert not uplinks.is_complete(memory.host, pool)
    link = the_uplink(memory)
    memory.links.links[77] = Link(77, "bond0", True, 1500, "02:00:00:00:00:01", kind="bond")
    assert not uplinks.is_complete(memory.host, pool)
    memory.links.links[link.index] = replace(link, master=77)
    assert uplinks.is_complete(memory.host, pool)
