# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports of `ovs.openvswitch` with a real ovsdb-server and ovs-vswitchd; its bridges are in `test_ovs_bridge`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.integration.ovs_server import OvsServer, connected, eventually, two_bridges
from vfmigrate.errors import HostError, Unreachable, VfmigrateError
from vfmigrate.ovs import openvswitch, ovsdb, switchport
from vfmigrate.ovs.openvswitch import OWNER_KEY, OpenVswitch, PortSettings

BRIDGE = "br-data"
IDS = {"iface-id": "8d3e", "attached-mac": "52:54:00:00:00:02", "vm-id": "77aa", "iface-status": "active"}
ACCESS = PortSettings(tag=42, external_ids=IDS)
LINKS = ("rep0", "rep1", "rep2")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OvsServer]:
    with two_bridges(tmp_path_factory.mktemp("ovs"), LINKS) as server:
        yield server


@pytest.fixture
def door(server: OvsServer) -> Iterator[OpenVswitch]:
    with connected(server, LINKS) as door:
        yield door


@pytest.fixture
def hasty(server: OvsServer) -> Iterator[OpenVswitch]:
    door = OpenVswitch(server.remote, timeout=0.5)
    yield door
    door.close()


def column(server: OvsServer, table: str, name: str, column: str) -> str:
    return server.vsctl("get", table, name, column)


def everything(server: OvsServer) -> str:
    """Everything in the database about ports, in a fixed order."""
    columns = "name,tag,trunks,external_ids,interfaces"
    tables = [
        server.vsctl(f"--columns={columns}", "list", "Port"),
        server.vsctl("--columns=name,external_ids", "list", "Interface"),
        server.vsctl("--columns=name,ports", "list", "Bridge"),
    ]
    return "\n\n".join("\n\n".join(sorted(table.split("\n\n"))) for table in tables)


def test_plug_makes_an_access_port_with_ids(server: OvsServer, door: OpenVswitch) -> None:
    port = door.plug(BRIDGE, "rep0", "guest/net0", ACCESS)
    assert server.vsctl("port-to-br", "rep0") == BRIDGE
    assert column(server, "Port", "rep0", "tag") == "42"
    assert column(server, "Interface", "rep0", "ofport") == str(port.ofport)
    for key, value in {**IDS, OWNER_KEY: "guest/net0"}.items():
        assert column(server, "Interface", "rep0", f"external_ids:{key}") == f'"{value}"'.replace(
            '"active"', "active"
        )
    assert (port.bridge, port.tag, port.owner, port.error) == (BRIDGE, 42, "guest/net0", None)
    assert door.port("rep0") == port


@pytest.mark.parametrize(
    ("settings", "tag", "trunks", "mode"),
    [
        (PortSettings(), "[]", "[]", "[]"),
        (PortSettings(tag=7), "7", "[]", "[]"),
        (PortSettings(trunks=(30, 20)), "[]", "[20, 30]", "[]"),
        (PortSettings(tag=10, trunks=(20,)), "10", "[20]", "native-untagged"),
    ],
)
def test_plug_sets_tag_trunks_and_vlan_mode(
    server: OvsServer, door: OpenVswitch, settings: PortSettings, tag: str, trunks: str, mode: str
) -> None:
    port = door.plug(BRIDGE, "rep0", "me", settings)
    seen = [column(server, "Port", "rep0", name) for name in ("tag", "trunks", "vlan_mode")]
    assert seen == [tag, trunks, mode]
    assert (port.tag, port.trunks) == (settings.tag, tuple(sorted(settings.trunks)))


def test_plug_of_a_plugged_port_writes_nothing(server: OvsServer, door: OpenVswitch) -> None:
    first = door.plug(BRIDGE, "rep0", "me", ACCESS)
    before = server.vsctl("get", "Open_vSwitch", ".", "next_cfg"), everything(server)
    assert door.plug(BRIDGE, "rep0", "me", ACCESS) == first
    assert (server.vsctl("get", "Open_vSwitch", ".", "next_cfg"), everything(server)) == before


def test_plug_with_other_settings_replaces_all_settings(server: OvsServer, door: OpenVswitch) -> None:
    first = door.plug(BRIDGE, "rep0", "me", PortSettings(tag=42, trunks=(43,), external_ids=IDS))
    server.vsctl("set", "Interface", "rep0", "external_ids:ovn-installed=true", "mtu_request=1400")
    settings = PortSettings(trunks=(77,), external_ids={"iface-id": "new"})
    second = door.plug(BRIDGE, "rep0", "me", settings)
    assert second.ofport == first.ofport
    assert (second.tag, second.trunks) == (None, (77,))
    assert column(server, "Port", "rep0", "vlan_mode") == "[]"
    assert column(server, "Interface", "rep0", "mtu_request") == "[]"
    # External IDs of others stay.
    kept = {"iface-id": "new", "ovn-installed": "true", OWNER_KEY: "me", **switchport.MARK}
    assert second.external_ids == kept


def test_plug_requires_an_existing_bridge(server: OvsServer, door: OpenVswitch) -> None:
    before = everything(server)
    with pytest.raises(HostError, match="no bridge 'br-none'"):
        door.plug("br-none", "rep0", "me", ACCESS)
    assert everything(server) == before


def test_plug_refuses_the_port_of_another_owner(server: OvsServer, door: OpenVswitch) -> None:
    door.plug(BRIDGE, "rep0", "guest-a", ACCESS)
    before = everything(server)
    with pytest.raises(HostError, match=r"rep0 of bridge br-data belongs to 'guest-a'"):
        door.plug(BRIDGE, "rep0", "guest-b", PortSettings(tag=1))
    assert everything(server) == before


def test_plug_refuses_the_port_of_an_administrator(server: OvsServer, door: OpenVswitch) -> None:
    server.vsctl("add-port", BRIDGE, "rep0", "tag=5")
    before = everything(server)
    with pytest.raises(HostError, match="rep0 of bridge br-data was not made by vfmigrate"):
        door.plug(BRIDGE, "rep0", "me", ACCESS)
    assert everything(server) == before


def test_plug_refuses_a_port_on_another_bridge(server: OvsServer, door: OpenVswitch) -> None:
    door.plug("br-other", "rep0", "me", ACCESS)
    before = everything(server)
    with pytest.raises(HostError, match="rep0 is on bridge br-other, not on br-data"):
        door.plug(BRIDGE, "rep0", "me", ACCESS)
    assert everything(server) == before


def test_plug_of_a_member_of_a_bond_is_refused(server: OvsServer, door: OpenVswitch) -> None:
    server.vsctl("add-bond", BRIDGE, "bond0", "rep0", "rep1")
    try:
        before = everything(server)
        with pytest.raises(HostError, match="rep0 is part of a bond"):
            door.plug(BRIDGE, "rep0", "me", ACCESS)
        assert everything(server) == before
    finally:
        server.vsctl("del-port", "bond0")


def test_unplug_removes_the_owners_ports(server: OvsServer, door: OpenVswitch) -> None:
    before = everything(server)
    door.plug(BRIDGE, "rep0", "me", ACCESS)
    assert door.unplug("rep0", "me")
    assert everything(server) == before
    assert not door.unplug("rep0", "me")


def test_unplug_leaves_the_port_of_a_newer_owner(server: OvsServer, door: OpenVswitch) -> None:
    door.plug(BRIDGE, "rep0", "old", ACCESS)
    door.unplug("rep0", "old")
    door.plug(BRIDGE, "rep0", "new", ACCESS)
    server.vsctl("add-port", BRIDGE, "rep1")
    before = everything(server)
    assert not door.unplug("rep0", "old")
    assert not door.unplug("rep1", "old")
    assert everything(server) == before


@pytest.mark.parametrize("how", ["plugged anew", "handed over"])
def test_a_late_removal_leaves_the_port_of_a_newer_owner(
    server: OvsServer, door: OpenVswitch, how: str
) -> None:
    """The owner changes between lookup and transaction: the transaction itself must refuse."""
    door.plug(BRIDGE, "rep0", "old", ACCESS)
    database = ovsdb.Database(server.remote, timeout=5)
    port, interface = (
        result["rows"][0]
        for result in database.transact(
            ovsdb.select("Port", ovsdb.named("rep0"), *switchport.PORT_COLUMNS),
            ovsdb.select("Interface", ovsdb.named("rep0"), *switchport.INTERFACE_COLUMNS),
        )
    )
    late = list(switchport.removal(switchport.PortRows.parse(BRIDGE, port, interface), "old"))
    if how == "plugged anew":
        door.unplug("rep0", "old")
        door.plug(BRIDGE, "rep0", "new", ACCESS)
    else:
        server.vsctl("set", "Interface", "rep0", f"external_ids:{OWNER_KEY}=new")
    with pytest.raises(ovsdb.GuardError):
        database.transact(*late)
    database.close()
    left = door.port("rep0")
    assert left is not None
    assert left.owner == "new"


def test_two_owners_never_undo_each_other(server: OvsServer) -> None:
    def compete(owner: str) -> int:
        door = OpenVswitch(server.remote)
        held = 0
        try:
            while held < 5:
                try:
                    door.plug(BRIDGE, "rep0", owner, ACCESS)
                except HostError as error:
                    assert "belongs to" in str(error)  # noqa: PT017 # the other side of the race
                    door.unplug("rep0", owner)
                    continue
                held += 1
                assert door.unplug("rep0", owner), "someone else took it away"
        finally:
            door.close()
        return held

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(compete, ["guest-a", "guest-b"])) == [5, 5]
    assert server.vsctl("list-ports", BRIDGE) == ""


def test_plug_of_a_missing_netdev_is_refused_and_changes_nothing(
    server: OvsServer, door: OpenVswitch
) -> None:
    before = everything(server)
    with pytest.raises(HostError, match=r"cannot use nodev as a port of bridge br-data: .*No such device"):
        door.plug(BRIDGE, "nodev", "me", ACCESS)
    assert everything(server) == before


def test_plug_removes_an_owned_port_whose_netdev_is_gone(server: OvsServer, door: OpenVswitch) -> None:
    before = everything(server)
    ids = [f"external_ids:{key}={value}" for key, value in {**switchport.MARK, OWNER_KEY: "me"}.items()]
    add = ["--no-wait", "add-port", BRIDGE, "nodev", "--", "set", "Interface", "nodev", *ids]
    server.vsctl(*add)
    with pytest.raises(HostError, match="cannot use nodev as a port"):
        door.plug(BRIDGE, "nodev", "me", PortSettings())
    assert everything(server) == before


def test_waiting_for_a_stopped_vswitchd_has_a_limit(server: OvsServer, hasty: OpenVswitch) -> None:
    before = everything(server)
    with (
        server.switch_halted(),
        pytest.raises(HostError, match=r"did not configure port rep0 .*within 0.5 s"),
    ):
        hasty.plug(BRIDGE, "rep0", "me", ACCESS)
    assert everything(server) == before


def test_what_is_done_meanwhile_is_done_before_vswitchd_is_waited_for(
    server: OvsServer, door: OpenVswitch
) -> None:
    with ExitStack() as stopped:
        stopped.enter_context(server.switch_halted())
        port = door.plug(BRIDGE, "rep0", "me", ACCESS, meanwhile=stopped.close)
    assert port.ofport
    called: list[str] = []
    assert door.plug(BRIDGE, "rep0", "me", ACCESS, meanwhile=lambda: called.append("again")) == port
    assert called == ["again"]


def test_a_port_is_removed_when_what_is_done_meanwhile_fails(server: OvsServer, door: OpenVswitch) -> None:
    before = everything(server)

    def fail() -> None:
        raise HostError("the link does not come up")

    with pytest.raises(HostError, match="the link does not come up"):
        door.plug(BRIDGE, "rep0", "me", ACCESS, meanwhile=fail)
    assert everything(server) == before


def test_a_port_in_use_survives_a_stopped_vswitchd(
    server: OvsServer, door: OpenVswitch, hasty: OpenVswitch
) -> None:
    port = door.plug(BRIDGE, "rep0", "me", ACCESS)
    with server.switch_halted():
        assert hasty.plug(BRIDGE, "rep0", "me", ACCESS) == port
        with pytest.raises(HostError, match="did not configure"):
            hasty.plug(BRIDGE, "rep0", "me", PortSettings(tag=43))
    left = door.port("rep0")
    assert left is not None
    assert left.tag == 43


def test_unplug_works_while_vswitchd_is_down(server: OvsServer, door: OpenVswitch) -> None:
    door.plug(BRIDGE, "rep0", "me", ACCESS)
    server.stop_switch()
    try:
        assert door.unplug("rep0", "me")
    finally:
        server.start_switch()
    assert server.vsctl("list-ports", BRIDGE) == ""


def test_other_requests_are_answered_while_one_waits_for_the_switch(
    server: OvsServer, door: OpenVswitch
) -> None:
    with server.switch_halted():
        waiting = threading.Thread(target=door.plug, args=(BRIDGE, "rep0", "me", ACCESS))
        waiting.start()
        eventually(lambda: door.port("rep0") is not None, "the port is in the database")
        assert waiting.is_alive()
    waiting.join()
    port = door.port("rep0")
    assert port is not None
    assert port.ofport


def test_a_database_that_was_down_is_used_again(server: OvsServer, door: OpenVswitch) -> None:
    door.plug(BRIDGE, "rep0", "me", ACCESS)
    server.stop_database()
    try:
        with pytest.raises(Unreachable, match=r"db.sock does not answer: .*systemctl start openvswitch"):
            door.port("rep0")
    finally:
        server.start_database()
    port = door.port("rep0")
    assert port is not None
    assert port.owner == "me"


def test_a_transaction_fails_when_the_database_disappears(server: OvsServer) -> None:
    database = ovsdb.Database(server.remote, timeout=30)
    never = {**ovsdb.guard("Bridge", ovsdb.named("br-none"), [{"name": "br-none"}]), "timeout": 30000}
    database.transact(ovsdb.select("Bridge", [], "name"))
    failures: list[VfmigrateError] = []

    def wait_for_nothing() -> None:
        try:
            database.transact(never)
        except VfmigrateError as error:
            failures.append(error)

    waiting = threading.Thread(target=wait_for_nothing)
    waiting.start()
    server.stop_database()
    waiting.join()
    server.start_database()
    assert isinstance(failures[0], Unreachable)
    database.close()


def test_probes_are_answered_while_waiting(server: OvsServer) -> None:
    """A server with probes drops a client that is silent for two intervals, here of one second."""
    probing = server.folder / "probing.sock"
    manager = ["--id=@m", "create", "Manager", f'target="punix:{probing}"', "inactivity_probe=1000"]
    server.vsctl("--", *manager, "--", "set", "Open_vSwitch", ".", "manager_options=@m")
    server.appctl_database("ovsdb-server/add-remote", "db:Open_vSwitch,Open_vSwitch,manager_options")
    eventually(probing.exists, "the second socket is there")
    database = ovsdb.Database(f"unix:{probing}", timeout=10)
    never = {**ovsdb.guard("Bridge", ovsdb.named("br-none"), [{"name": "br-none"}]), "timeout": 3000}
    with pytest.raises(ovsdb.GuardError, match="timed out"):
        database.transact(never)
    database.close()


@pytest.mark.parametrize("shared", ["nothing", "queue", "qos"])
def test_unplug_removes_the_ports_qos_unless_other_ports_use_it(
    server: OvsServer, door: OpenVswitch, shared: str
) -> None:
    door.plug(BRIDGE, "rep0", "me", ACCESS)
    ours = ["--id=@q", "create", "Queue", "other_config:max-rate=1000000"]
    server.vsctl(
        *("--", *ours),
        *("--", "--id=@qos", "create", "QoS", "type=linux-htb", "queues:0=@q"),
        *("--", "set", "Port", "rep0", "qos=@qos"),
        *("--", "add-port", BRIDGE, "rep1"),
    )
    qos, queue = (server.vsctl("--columns=_uuid", "--bare", "list", table) for table in ("QoS", "Queue"))
    if shared == "qos":
        server.vsctl("set", "Port", "rep1", f"qos={qos}")
    if shared == "queue":
        other = ["--id=@qos", "create", "QoS", "type=linux-htb", f"queues:0={queue}"]
        server.vsctl("--", *other, "--", "set", "Port", "rep1", "qos=@qos")
    assert door.unplug("rep0", "me")
    left = [server.vsctl("--columns=_uuid", "--bare", "list", table) for table in ("QoS", "Queue")]
    server.vsctl(
        "--all", "destroy", "QoS", "--", "--all", "destroy", "Queue", "--", "clear", "Port", "rep1", "qos"
    )
    assert (qos in left[0]) == (shared == "qos")
    assert (queue in left[1]) == (shared != "nothing")


def test_owned_ports_lists_only_ports_of_vfmigrate(
    server: OvsServer, door: OpenVswitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.vsctl("add-port", BRIDGE, "rep1")
    door.plug("br-other", "rep2", "guest-b", PortSettings(trunks=(1, 2)))
    door.plug(BRIDGE, "rep0", "guest-a", ACCESS)
    found = door.owned_ports()
    assert [(port.name, port.bridge, port.owner) for port in found] == [
        ("rep0", BRIDGE, "guest-a"),
        ("rep2", "br-other", "guest-b"),
    ]
    monkeypatch.setattr(openvswitch, "_SEARCHES", 1)  # as where there are many ports
    assert door.owned_ports() == found
