# SPDX-License-Identifier: GPL-2.0-or-later
"""A failover pair for a running guest, with real libvirt and QEMU.

The guests here run no code, so that none releases a device or negotiates failover. The tests show that such a guest
keeps its VF, and that vfmigrated follows devices that are plugged and unplugged. The test bed has a guest that does
all of it.
"""

from __future__ import annotations

import json

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import BRIDGE, wait_for
from tests.integration.pair import Pair as Hosts
from tests.integration.test_failover import ALIAS, GUEST, MAC, definition, failover
from vfmigrate.domain import domain_xml
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import failover_pair
from vfmigrate.strategies.failover import definition as definitions
from vfmigrate.strategies.failover.definition import StandbyOptions

pytestmark = pytest.mark.hosts

PORTS = (
    "<controller type='pci' index='0' model='pcie-root'/>"
    + 3 * "<controller type='pci' model='pcie-root-port'/>"
)


@pytest.fixture
def running(ready: Hosts) -> Hosts:
    """A guest with a VF and a free port runs on the first host."""
    node = ready.a
    xml = Guest(GUEST, [Vf(node.vf(1), MAC, vlan=42)]).xml().replace("<memballoon", f"{PORTS}<memballoon")
    node.host.virsh("define", "/dev/stdin", stdin=xml)
    node.host.virsh("start", GUEST)
    node.wait_until_settled()
    return ready


def strategies(hosts: Hosts) -> list[str]:
    return [claim["strategy"] for claim in hosts.a.product.claims().values()]


def test_a_guest_that_does_not_release_its_vf_keeps_it(running: Hosts) -> None:
    a = running.a
    vf = a.vf(1)
    a.card.set_bus_master(vf, True)
    before, state = definition(a), a.state()

    status, told, error = failover(
        a, "enable", GUEST, "--standby-bridge", BRIDGE, "--vlan", "42", "--live", "--wait", "2"
    )

    assert status == 69, error
    assert "did not release its VF within 2 s; it has its VF as before" in error
    assert "to have the pair at the guest's next boot, run the command without --live" in error
    assert len(error.splitlines()) == 1
    assert "+      <teaming type='persistent'/>" in told
    assert definition(a) == before
    (interface,) = domain_xml.read(a.host.virsh("dumpxml", GUEST)).interfaces
    assert (str(interface.address), interface.teaming) == (vf, None)
    # it never released the VF: the port existed all the time
    port = a.representor(1)
    assert a.switch_ports()[port] == state.switch_ports[port]
    assert a.state().claims == state.claims


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--standby-bridge", BRIDGE, "--vlan", "43"), "VLAN 42 and its standby"),
        (("--standby-bridge", BRIDGE, "--vlan", "42", "-c", "qemu+tcp://host-b/system"), "has no guest 'g'"),
    ],
    ids=["other VLAN", "other host"],
)
def test_live_refusals_change_nothing(running: Hosts, words: tuple[str, ...], told: str) -> None:
    a = running.a
    before = (definition(a), a.host.virsh("dumpxml", GUEST), a.state())
    status, _, error = failover(a, "enable", GUEST, "--live", *words)
    assert status == 1
    assert told in error
    assert len(error.splitlines()) == 1
    assert (definition(a), a.host.virsh("dumpxml", GUEST), a.state()) == before


def test_live_needs_a_guest_that_runs_here(ready: Hosts) -> None:
    ready.a.define_guest(Guest(GUEST, [Vf(ready.a.vf(1), MAC)]))
    before = definition(ready.a)
    words = ("enable", GUEST, "--standby-bridge", BRIDGE, "--live")
    assert "guest 'g' does not run; omit --live" in failover(ready.a, *words)[2]
    elsewhere = ready.b.host.run(
        *("vfmigrate", "failover", *words, "-c", "qemu+tcp://host-a/system"), check=False
    )
    assert "--live must run on the host of the guest; run it on " in elsewhere.stderr
    assert definition(ready.a) == before


def test_a_vf_that_joins_a_pair_migrates_by_failover(running: Hosts) -> None:
    """Libvirt calls no hook for devices that are plugged in by hand; from then on the guest uses the standby."""
    a = running.a
    assert strategies(running) == ["vfio"]
    live = a.host.virsh("dumpxml", "--migratable", GUEST)
    halves = definitions.live_halves(live, StandbyOptions(bridge=BRIDGE, openvswitch=True, vlan=42))
    assert halves is not None

    a.host.virsh("attach-device", GUEST, "/dev/stdin", "--live", stdin=halves.standby)

    wait_for("the claim to follow", lambda: strategies(running) == ["failover"])
    # the guest's driver does not use the VF here, so the guest uses the standby
    wait_for("the port to go", lambda: a.representor(1) not in a.switch_ports())
    wait_for("the stamp", lambda: 'strategy="failover"' in a.host.virsh("dumpxml", GUEST))
    told = json.loads(a.host.run("vfmigrate", "status", "--json").stdout)
    (vf,) = (vf for pf in told["pools"][0]["pfs"] for vf in pf["vfs"] if vf["guest"] == GUEST)
    assert vf["state"] == "standby"
    assert f"guest '{GUEST}' has not taken it, and runs on its standby" in vf["problems"]


def test_a_pair_that_is_plugged_in_by_hand_is_claimed(running: Hosts) -> None:
    a, mac, vf = running.a, "52:54:00:00:00:07", running.a.vf(2)
    live = a.host.virsh("dumpxml", "--migratable", GUEST)
    halves = definitions.live_halves(live, StandbyOptions(bridge=BRIDGE, openvswitch=True, vlan=42))
    assert halves is not None
    standby = halves.standby.replace(MAC, mac).replace(ALIAS, "ua-by-hand")
    a.host.virsh("attach-device", GUEST, "/dev/stdin", "--live", stdin=standby)
    guest = domain_xml.read(a.host.virsh("dumpxml", GUEST))
    half = failover_pair.transient_device(guest, mac, PciAddress.parse(vf), plain=False, managed=True)

    a.host.virsh("attach-device", GUEST, "/dev/stdin", "--live", stdin=half)

    wait_for("the claim", lambda: vf in a.product.claims())
    claim = a.product.claims()[vf]
    assert (claim["strategy"], claim["vlan"], claim["mac"], claim["expires"]) == ("failover", 42, mac, None)
    assert a.representor(2) not in a.switch_ports()
    a.card.set_bus_master(vf, True)
    wait_for("the port", lambda: a.representor(2) in a.switch_ports())
    assert a.switch_ports()[a.representor(2)].tag == 42
