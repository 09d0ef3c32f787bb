# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch is down, restarted, or changed by others, before, during and after a migration."""

from __future__ import annotations

import pytest

from tests.integration.hook_calls import BEFORE
from tests.integration.hosts import BRIDGE
from tests.integration.journey import MAC, NAME, VLAN, Journey
from tests.integration.pair import Node, Pair, start_products

pytestmark = pytest.mark.hosts


@pytest.fixture
def journey(pair: Pair) -> Journey:
    """A guest on the first host; reservations soon expire."""
    start_products(pair, claim_timeout=5)
    return Journey(pair)


def restart_openvswitch(node: Node) -> None:
    """An upgrade of Open vSwitch restarts it like this."""
    node.host.stop_vswitchd()
    node.host.stop_database()
    node.host.start_database()
    node.host.start_vswitchd()


def test_a_destination_without_the_database_refuses(journey: Journey) -> None:
    a, b = journey.pair.a, journey.pair.b
    b.host.stop_database()
    outcome = a.migrate(NAME, b)
    b.host.start_database()
    assert outcome.status != 0
    assert "ovsdb-server at unix:" in outcome.error
    assert "run: systemctl start openvswitch" in outcome.error
    assert len(outcome.error.splitlines()) == 1
    assert b.hooks.operations() == ["migrate begin -"]
    journey.stays()


@pytest.mark.long
def test_a_database_that_stops_before_start_refuses_the_guest(journey: Journey) -> None:
    a, b = journey.pair.a, journey.pair.b
    with b.hooks.hold(NAME, "start", BEFORE):
        migration = a.begin_migration(NAME, b)
        b.hooks.wait_for("start")
        b.host.stop_database()
    outcome = migration.finish()
    b.host.start_database()
    assert outcome.status != 0
    assert "ovsdb-server" in outcome.error
    journey.stays()


def test_a_migration_survives_a_restart_of_open_vswitch_on_both_hosts(journey: Journey) -> None:
    a, b = journey.pair.a, journey.pair.b
    with b.hooks.hold(NAME, "started", BEFORE):
        migration = a.begin_migration(NAME, b)
        b.hooks.wait_for("started")
        for node in (b, a):
            restart_openvswitch(node)
    outcome = migration.finish()
    assert outcome.status == 0, outcome.error
    a.become(journey.empty[0])
    (port,) = b.switch_ports().values()
    assert (port.tag, port.ids["attached-mac"]) == (VLAN, MAC)


def test_a_reconcile_removes_a_port_that_remained_while_the_database_was_down(journey: Journey) -> None:
    """Nothing can be refused any more: the first reconcile after the database is back removes the port."""
    a, b = journey.pair.a, journey.pair.b
    a.host.stop_database()
    outcome = a.migrate(NAME, b)
    a.host.start_database()
    assert outcome.status == 0, outcome.error
    assert a.host.ports() == [a.representor(3)]
    a.reconcile()
    a.become(journey.empty[0])


def test_a_bridge_that_is_deleted_before_start_refuses_the_guest(journey: Journey) -> None:
    a, b = journey.pair.a, journey.pair.b
    with b.hooks.hold(NAME, "start", BEFORE):
        migration = a.begin_migration(NAME, b)
        b.hooks.wait_for("start")
        b.host.vsctl("del-br", BRIDGE)
    outcome = migration.finish()
    b.host.add_bridge()
    assert outcome.status != 0
    assert f"no bridge '{BRIDGE}'" in outcome.error
    assert f"ovs-vsctl add-br {BRIDGE}" in outcome.error
    journey.stays()


def test_a_reconcile_plugs_a_guest_again_after_its_bridge_was_deleted(journey: Journey) -> None:
    """The guest has no network until the bridge exists again and one reconcile has run."""
    a = journey.pair.a
    a.host.vsctl("del-br", BRIDGE)
    a.reconcile(fails=True)
    a.host.add_bridge()
    journey.stays()


def test_a_port_taken_by_another_controller_is_left_to_it(journey: Journey) -> None:
    """From then on it belongs to the other controller: neither a reconcile nor the end of the guest removes it."""
    a, b = journey.pair.a, journey.pair.b
    port = a.representor(3)
    a.host.vsctl("del-port", BRIDGE, port, "--", "add-port", BRIDGE, port, "tag=7")
    stolen = a.switch_ports()
    a.reconcile(fails=True)
    assert a.switch_ports() == stolen
    assert "was not made by vfmigrate" in a.product.log()
    assert a.migrate(NAME, b).status == 0
    a.reconcile()
    assert a.switch_ports() == stolen
    (arrived,) = b.switch_ports().values()
    assert arrived.tag == VLAN


def test_a_representor_plugged_by_another_controller_is_refused(journey: Journey) -> None:
    a, b = journey.pair.a, journey.pair.b
    port = b.representor(3)
    with b.hooks.hold(NAME, "start", BEFORE):
        migration = a.begin_migration(NAME, b)
        b.hooks.wait_for("start")
        b.host.vsctl("add-port", BRIDGE, port, "tag=7")
    outcome = migration.finish()
    assert outcome.status != 0
    assert f"port {port} of bridge {BRIDGE} was not made by vfmigrate" in outcome.error
    assert f"ovs-vsctl del-port {BRIDGE} {port}" in outcome.error
    assert [each.tag for each in b.switch_ports().values()] == [7]
    b.host.vsctl("del-port", BRIDGE, port)
    journey.stays()
