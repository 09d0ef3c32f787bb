# SPDX-License-Identifier: GPL-2.0-or-later
"""An announcement through a VF's port of a real bridge: what the bridge learns, and what leaves by the uplink."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

import pytest

from tests.integration.ovs_server import OvsServer, Wire, eventually
from vfmigrate.announce.rarp import ETHERTYPE_RARP, rarp
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.ovs import openflow
from vfmigrate.ovs.openvswitch import OpenVswitch, PortSettings

BRIDGE = "br-data"
MAC = "52:54:00:00:00:02"
FABRIC = "up0-far"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvsServer]:
    with OvsServer(tmp_path_factory.mktemp("ovs")) as server:
        server.add_bridge(BRIDGE)
        assert server.add_link("up0") == FABRIC
        server.add_link("rep0")
        server.vsctl("add-port", BRIDGE, "up0", "--", "set", "Interface", "up0", "ofport_request=1")
        yield server


@pytest.fixture
def door(server: OvsServer) -> Iterator[OpenVswitch]:
    door = OpenVswitch(server.remote)
    yield door
    door.unplug("rep0", "me")
    door.close()
    server.appctl("fdb/flush", BRIDGE)


def is_rarp(frame: bytes) -> bool:
    return frame[12:14] == ETHERTYPE_RARP.to_bytes(2, "big")


def announce(door: OpenVswitch, settings: PortSettings) -> int:
    port = door.plug(BRIDGE, "rep0", "me", settings)
    assert port.ofport is not None
    door.packet_out(BRIDGE, port.ofport, rarp(MAC))
    return port.ofport


def tagged(vlan: int, frame: bytes) -> bytes:
    return frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]


@pytest.mark.parametrize(
    ("settings", "vlan"),
    [
        (PortSettings(tag=42), 42),
        (PortSettings(), None),
        (PortSettings(tag=10, trunks=(20,)), 10),
    ],
)
def test_the_announcement_leaves_by_the_uplink_in_the_ports_vlan(
    server: OvsServer, door: OpenVswitch, settings: PortSettings, vlan: Optional[int]
) -> None:
    with Wire(server.namespace, FABRIC) as fabric:
        announce(door, settings)
        assert fabric.receive(is_rarp) == (vlan, rarp(MAC))


@pytest.mark.parametrize("trunks", [(42, 43), (0,), (0, 42)])
def test_a_trunk_needs_a_frame_for_each_of_its_vlans(
    server: OvsServer, door: OpenVswitch, trunks: tuple[int, ...]
) -> None:
    port = door.plug(BRIDGE, "rep0", "me", PortSettings(trunks=trunks))
    assert port.ofport is not None
    with Wire(server.namespace, FABRIC) as fabric:
        for vlan in trunks:
            door.packet_out(BRIDGE, port.ofport, rarp(MAC, vlan))
        seen = {fabric.receive(is_rarp) for _ in trunks}
    assert seen == {(vlan or None, rarp(MAC)) for vlan in trunks}


@pytest.mark.parametrize(("trunks", "sent"), [((42, 43), 0), ((42, 43), 44), ((0,), 42)])
def test_nothing_leaves_a_trunk_in_another_vlan(
    server: OvsServer, door: OpenVswitch, trunks: tuple[int, ...], sent: int
) -> None:
    """A guest must not send in a VLAN that is not its own: only the frame of its own VLAN arrives."""
    port = door.plug(BRIDGE, "rep0", "me", PortSettings(trunks=trunks))
    assert port.ofport is not None
    with Wire(server.namespace, FABRIC) as fabric:
        for vlan in (sent, trunks[0]):
            door.packet_out(BRIDGE, port.ofport, rarp(MAC, vlan))
        assert fabric.receive(is_rarp) == (trunks[0] or None, rarp(MAC))


def test_the_bridge_learns_the_new_port_of_the_guests_mac(server: OvsServer, door: OpenVswitch) -> None:
    """As after a migration to this host: in the bridge's MAC table, the guest is still behind the uplink."""
    with Wire(server.namespace, FABRIC) as fabric:
        fabric.send(tagged(42, rarp(MAC)))
        eventually(lambda: server.learned(BRIDGE).get((42, MAC)) == "1", "the guest is behind the uplink")
        ofport = announce(door, PortSettings(tag=42))
        eventually(lambda: server.learned(BRIDGE)[42, MAC] == str(ofport), "the guest is behind its port")


def test_the_vlans_in_which_a_guest_was_seen_are_known(server: OvsServer) -> None:
    """A trunk of all VLANs says nothing of those that its guest uses."""
    door = OpenVswitch(server.remote, control=server.folder / "switch.ctl")
    try:
        with Wire(server.namespace, FABRIC) as fabric:
            for vlan in (42, 43):
                fabric.send(tagged(vlan, rarp(MAC)))
            eventually(
                lambda: door.seen_in(BRIDGE, [MAC]) == {MAC: frozenset({42, 43})}, "both VLANs are known"
            )
        with pytest.raises(HostError, match="does not show the MAC table of bridge 'br-none'"):
            door.seen_in("br-none", [MAC])
    finally:
        door.close()


@pytest.mark.parametrize("vlan", [0, 42, 43])
def test_an_open_trunk_announces_in_every_vlan(server: OvsServer, door: OpenVswitch, vlan: int) -> None:
    port = door.plug(BRIDGE, "rep0", "me", PortSettings())
    assert port.ofport is not None
    with Wire(server.namespace, FABRIC) as fabric:
        door.packet_out(BRIDGE, port.ofport, rarp(MAC, vlan))
        assert fabric.receive(is_rarp) == (vlan or None, rarp(MAC))


def test_removing_a_port_removes_its_mac_from_the_bridge(server: OvsServer, door: OpenVswitch) -> None:
    announce(door, PortSettings(tag=42))
    eventually(lambda: (42, MAC) in server.learned(BRIDGE), "the guest's address is known")
    door.unplug("rep0", "me")
    eventually(lambda: (42, MAC) not in server.learned(BRIDGE), "it is forgotten")


@pytest.mark.parametrize("protocol", [f"OpenFlow1{minor}" for minor in range(6)])
def test_the_announcement_works_with_every_openflow_version(
    server: OvsServer, door: OpenVswitch, protocol: str
) -> None:
    server.vsctl("set", "Bridge", BRIDGE, f"protocols={protocol}")
    try:
        with Wire(server.namespace, FABRIC) as fabric:
            announce(door, PortSettings(tag=42))
            assert fabric.receive(is_rarp) == (42, rarp(MAC))
    finally:
        server.vsctl("clear", "Bridge", BRIDGE, "protocols")


@pytest.mark.parametrize("version", openflow.VERSIONS)
def test_open_vswitch_reads_the_openflow_messages(server: OvsServer, version: int) -> None:
    text = server.ofctl("ofp-print", openflow.packet_out(version, 7, 9, rarp(MAC)).hex())
    header, frame = text.splitlines()[:2]
    name = "OFPT_PACKET_OUT" + ("" if version == 1 else f" (OF1.{version - 1})")
    assert header == f"{name} (xid=0x7): in_port=9 actions=NORMAL data_len=60"
    assert frame.startswith(f"rarp,vlan_tci=0x0000,dl_src={MAC},dl_dst=ff:ff:ff:ff:ff:ff,")
    assert "arp_op=3" in frame


def test_a_packet_out_on_an_absent_bridge_is_an_error(door: OpenVswitch) -> None:
    with pytest.raises(Unreachable, match=r"br-none.mgmt: No such file .*see whether the bridge exists"):
        door.packet_out("br-none", 1, rarp(MAC))


def test_a_packet_out_on_an_absent_port_is_an_error(door: OpenVswitch) -> None:
    with pytest.raises(HostError, match="refused packet-out on port 65400: no such port"):
        door.packet_out(BRIDGE, 65400, rarp(MAC))


def test_a_packet_out_to_a_stopped_vswitchd_times_out(server: OvsServer) -> None:
    door = OpenVswitch(server.remote, timeout=0.5)
    with server.switch_halted(), pytest.raises(Unreachable, match="no OpenFlow answer"):
        door.packet_out(BRIDGE, 1, rarp(MAC))
