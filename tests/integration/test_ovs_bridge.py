# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges, uplinks and settings of `ovs.openvswitch` with a real ovsdb-server and ovs-vswitchd."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.integration.ovs_server import OvsServer, connected, two_bridges
from vfmigrate.errors import HostError
from vfmigrate.ovs.bridge import OFFLOAD
from vfmigrate.ovs.openvswitch import OpenVswitch

BRIDGE = "br-data"
LINKS = ("rep0", "rep1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvsServer]:
    with two_bridges(tmp_path_factory.mktemp("ovs"), LINKS) as server:
        yield server


@pytest.fixture
def door(server: OvsServer) -> Iterator[OpenVswitch]:
    with connected(server, LINKS) as door:
        yield door


def test_bridge_exists_distinguishes_bridges(door: OpenVswitch) -> None:
    assert door.bridge_exists(BRIDGE)
    assert not door.bridge_exists("br-none")


def test_other_config_of_open_vswitch_is_read_and_set(server: OvsServer, door: OpenVswitch) -> None:
    server.vsctl("set", "Open_vSwitch", ".", "other_config:theirs=1", "other_config:max-idle=10000")
    door.configure(OFFLOAD)
    assert {**OFFLOAD, "theirs": "1"}.items() <= door.settings().items()
    before = server.vsctl("get", "Open_vSwitch", ".", "next_cfg")
    door.configure(OFFLOAD)
    assert server.vsctl("get", "Open_vSwitch", ".", "next_cfg") == before
    server.vsctl("clear", "Open_vSwitch", ".", "other_config")


def test_a_bridge_that_cannot_work_is_not_left_behind(server: OvsServer, door: OpenVswitch) -> None:
    with (
        closing(OpenVswitch(server.remote, datapath="no-such")) as unable,
        pytest.raises(HostError, match="cannot create bridge br-new") as error,
    ):
        unable.add_bridge("br-new")
    assert error.value.remedy == "modprobe openvswitch"
    assert not door.bridge_exists("br-new")


def test_a_bridge_is_created_and_its_uplink_is_plugged(server: OvsServer) -> None:
    with closing(OpenVswitch(server.remote, datapath="netdev")) as door:
        check_bridge_and_uplink(server, door)


def check_bridge_and_uplink(server: OvsServer, door: OpenVswitch) -> None:
    assert not door.bridge_exists("br-new")
    door.add_bridge("br-new")
    door.add_bridge("br-new")
    assert server.vsctl("get", "Bridge", "br-new", "datapath_type") == "netdev"
    assert (door.datapath("br-new"), door.datapath("br-absent")) == ("netdev", None)
    door.add_uplink("br-new", "rep0")
    door.add_uplink("br-new", "rep0")
    assert server.vsctl("list-ports", "br-new") == "rep0"
    assert (door.bridge_of("rep0"), door.bridge_of("rep1")) == ("br-new", None)
    assert door.owned_ports() == []  # an uplink belongs to no guest
    server.vsctl("del-br", "br-new")


def test_an_uplink_on_another_bridge_is_not_moved(server: OvsServer, door: OpenVswitch) -> None:
    server.vsctl("add-port", "br-other", "rep0")
    with pytest.raises(HostError, match="uplink rep0 is on bridge br-other, not on br-data") as error:
        door.add_uplink(BRIDGE, "rep0")
    assert error.value.remedy == "ovs-vsctl del-port br-other rep0"


def test_an_uplink_in_a_bond_is_found(server: OvsServer, door: OpenVswitch) -> None:
    server.vsctl("add-bond", BRIDGE, "bond0", "rep0", "rep1")
    assert door.bridge_of("rep1") == BRIDGE
    server.vsctl("del-port", "bond0")


def test_a_missing_uplink_leaves_no_port(server: OvsServer, door: OpenVswitch) -> None:
    with pytest.raises(HostError, match="cannot use absent0 as a port of bridge br-data"):
        door.add_uplink(BRIDGE, "absent0")
    assert "absent0" not in server.vsctl("list-ports", BRIDGE).split()
