# SPDX-License-Identifier: GPL-2.0-or-later
"""Real `virsh migrate` between two hosts with vfmigrate: the states of destination and source."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import AFTER, BEFORE
from tests.integration.hosts import wait_for
from tests.integration.ovs_server import Wire
from tests.integration.pair import Node, Pair, start_products
from vfmigrate.announce.rarp import rarp

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
OTHER_MAC = "52:54:00:00:00:03"
NO_MAC = "00:00:00:00:00:00"
FORMS = ["interface", "hostdev"]


def vfs_of(xml: str) -> list[str]:
    """The host addresses of the VFs in domain XML, in order."""
    addresses = [
        device.find("source/address")
        for device in ET.fromstring(xml).findall("devices/*")
        if "hostdev" in {device.tag, device.get("type")}
    ]
    numbers = (
        [int(address.get(key, ""), 16) for key in ("domain", "bus", "slot", "function")]
        for address in addresses
        if address is not None
    )
    return ["{:04x}:{:02x}:{:02x}.{:x}".format(*each) for each in numbers]


def vf_index(node: Node, address: str) -> int:
    index = node.card.function(address).vf
    assert index is not None
    return index


@pytest.mark.parametrize("form", FORMS)
def test_vf_and_port_migrate_with_the_guest(ready: Pair, form: str) -> None:
    a, b = ready.a, ready.b
    empty = b.state()
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42, form=form)]))
    at_home = a.switch_ports()[a.representor(1)]
    assert at_home.tag == 42

    outcome = a.migrate("g", b)

    assert outcome.status == 0, outcome.error
    (vf,) = vfs_of(b.host.virsh("dumpxml", "g"))
    index = vf_index(b, vf)
    function, representor = b.card.function(vf), b.representor(index)
    assert (function.driver, function.migratable_at_bind) == ("mlx5_vfio_pci", True)
    assert b.port(index).hw_addr == MAC
    state = b.state()
    assert list(state.switch_ports) == [representor]
    arrived = state.switch_ports[representor]
    assert arrived.tag == 42
    for key in ("iface-id", "attached-mac", "vm-id", "iface-status"):
        assert arrived.ids[key] == at_home.ids[key]
    assert arrived.ids["attached-mac"] == MAC
    assert state.links_up == {**empty.links_up, representor: True}
    assert list(state.claims) == [vf]


@pytest.mark.parametrize("form", FORMS)
def test_a_migration_leaves_nothing_on_the_source(ready: Pair, form: str) -> None:
    a, b = ready.a, ready.b
    before = a.state()
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42, form=form)]))
    assert a.migrate("g", b).status == 0
    assert a.state() == before


def test_a_guest_of_a_pools_network_gets_a_vf_of_it(ready: Pair) -> None:
    """Libvirt chooses the VF on both hosts; vfmigrate plugs the port of the chosen VF."""
    a, b = ready.a, ready.b
    for node in (a, b):
        node.make_network("data")
    before = a.state()
    a.start_guest(Guest("g", [Vf(a.vf(0), MAC, vlan=42, form="network")]))
    assert [port.tag for port in a.state().switch_ports.values()] == [42]

    outcome = a.migrate("g", b)

    assert outcome.status == 0, outcome.error
    assert a.state() == before
    state = b.state()
    (vf,) = state.claims
    assert state.drivers[vf] == "mlx5_vfio_pci"
    assert {name: port.tag for name, port in state.switch_ports.items()} == {
        b.representor(vf_index(b, vf)): 42
    }


def test_an_offline_guest_takes_no_vf(pair: Pair) -> None:
    """Only its definition moves, with a call of `migrate` alone; its reservation must not remain."""
    a, b = pair.a, pair.b
    start_products(pair, claim_timeout=5, reconcile_interval=1)
    before = b.state()
    a.define_guest(Guest("g", [Vf(a.vf(1), MAC)]))
    outcome = a.migrate("g", b, "--offline", "--persistent")
    assert outcome.status == 0, outcome.error
    assert b.hooks.operations() == ["migrate begin -"]
    assert vfs_of(b.host.virsh("dumpxml", "g"))[0] in before.drivers
    wait_for(
        "the reserved VF to be free",
        lambda: b.state() == replace(before, guests={"g": "shut off"}),
    )


def test_a_guest_migrates_there_and_back_twice(ready: Pair) -> None:
    a, b = ready.a, ready.b
    empty = b.state()
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42)]))
    for source, target in ((a, b), (b, a)):
        outcome = source.migrate("g", target)
        assert outcome.status == 0, outcome.error
    assert b.state() == empty
    (vf,) = vfs_of(a.host.virsh("dumpxml", "g"))
    assert a.switch_ports()[a.representor(vf_index(a, vf))].tag == 42


def test_each_of_two_vfs_keeps_its_vlan(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest("g", [Vf(a.vf(0), MAC, vlan=42), Vf(a.vf(1), OTHER_MAC, vlan=43)]))
    outcome = a.migrate("g", b)
    assert outcome.status == 0, outcome.error
    tags = {port.ids["attached-mac"]: port.tag for port in b.state().switch_ports.values()}
    assert tags == {MAC: 42, OTHER_MAC: 43}
    assert len(set(vfs_of(b.host.virsh("dumpxml", "g")))) == 2


def test_later_hooks_get_the_new_vf_from_migrate_on(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC)]))
    assert a.migrate("g", b).status == 0
    (vf,) = vfs_of(b.host.virsh("dumpxml", "g"))
    asked = {call.operation: vfs_of(call.xml) for call in b.hooks.calls(BEFORE)}
    answered = {call.operation: vfs_of(call.xml) for call in b.hooks.calls(AFTER)}
    assert asked == {"migrate": [a.vf(1)], "prepare": [vf], "start": [vf], "started": [vf]}
    assert answered == {**asked, "migrate": [vf]}


def test_the_announcement_is_in_the_guests_vlan(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42)]))
    with Wire(ready.fabric.namespace, ready.fabric.link("data", b.host.name)) as wire:
        assert a.migrate("g", b).status == 0
        vlan, _frame = wire.receive(lambda frame: frame == rarp(MAC))
    assert vlan == 42


def test_a_plain_guest_leaves_nothing_behind(ready: Pair) -> None:
    a, b = ready.a, ready.b
    before = (a.state(), b.state())
    changes = [len(node.card.changes()) for node in (a, b)]
    logs = [node.product.log() for node in (a, b)]
    a.start_guest(Guest("g"))
    assert a.migrate("g", b).status == 0
    assert (a.state(), b.state()) == (before[0], replace(before[1], guests={"g": "running"}))
    assert [len(node.card.changes()) for node in (a, b)] == changes
    assert [node.product.log() for node in (a, b)] == logs


def test_a_vf_of_no_pool_is_ignored(pair: Pair) -> None:
    """A VF of no pool: vfmigrate does nothing with it."""
    node = pair.a
    node.product.start(pf="0000:99:00.0")
    before = node.state()
    node.start_guest(Guest("g", [Vf(node.vf(1), MAC, pool=None)]))
    state = node.state()
    assert (state.switch_ports, state.claims) == (before.switch_ports, before.claims)
    assert state.drivers[node.vf(1)] == "mlx5_vfio_pci"


def test_the_persistent_definition_names_the_new_vf(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.define_guest(Guest("g", [Vf(a.vf(1), MAC)]))
    a.host.virsh("start", "g")
    assert a.migrate("g", b, "--persistent", "--undefinesource").status == 0
    running = vfs_of(b.host.virsh("dumpxml", "g"))
    wait_for(
        "the definition to name the VF in use",
        lambda: vfs_of(b.host.virsh("dumpxml", "--inactive", "g")) == running,
    )


def test_guests_that_arrive_at_once_get_different_vfs(ready: Pair) -> None:
    a, b = ready.a, ready.b
    guests = [
        Guest(f"g{number}", [Vf(a.vf(number), f"52:54:00:00:01:0{number}")], number) for number in (1, 2, 3)
    ]
    for guest in guests:
        a.start_guest(guest)
    migrations = [a.begin_migration(guest.name, b) for guest in guests]
    outcomes = [migration.finish() for migration in migrations]
    assert [outcome.status for outcome in outcomes] == [0, 0, 0], outcomes
    vfs = [vfs_of(b.host.virsh("dumpxml", guest.name))[0] for guest in guests]
    assert len(set(vfs)) == 3
    assert set(b.state().claims) == set(vfs)
