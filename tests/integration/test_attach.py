# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate attach` and `detach` with real libvirt, on a definition and on a running guest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import BRIDGE, wait_for
from tests.integration.pair import Node, Pair
from tests.integration.test_migration import vf_index, vfs_of
from vfmigrate.domain import migrating_guest

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
GUEST = "g"
NETWORK = "vfmigrate-data"
NETWORKLESS = "/etc/vfmigrate/vfmigrate.conf.d/networkless.conf"


def vfmigrate(node: Node, *words: str) -> tuple[int, str, str]:
    """Status, output and error of the command."""
    done = node.host.run("vfmigrate", *words, check=False)
    return done.returncode, done.stdout, done.stderr


def told(node: Node, *words: str) -> dict[str, Any]:
    """The command's JSON."""
    status, output, error = vfmigrate(node, *words, "--json")
    assert (status, error) == (0, ""), error
    answer: dict[str, Any] = json.loads(output)
    return answer


def definition(node: Node) -> str:
    return node.host.virsh("dumpxml", "--inactive", "--security-info", GUEST)


@pytest.fixture
def networkless(pair: Pair) -> Iterator[None]:
    """The pool has no libvirt network."""
    pair.a.host.write(NETWORKLESS, "[pool data]\nnetwork = none\n")
    yield
    pair.a.host.path(NETWORKLESS).unlink()


@pytest.fixture
def home(ready: Pair) -> Node:
    """A host with a defined guest that has no VF but ports for one; it does not run."""
    for node in (ready.a, ready.b):
        node.set_hotplug(True)
    ready.a.define_guest(Guest(GUEST, free_ports=2))
    return ready.a


@pytest.fixture
def running(home: Node) -> Node:
    """The same host, with the guest running."""
    home.host.virsh("start", GUEST)
    return home


def test_attach_adds_a_vf_of_the_pools_network_to_a_definition(home: Node) -> None:
    before = definition(home)
    answer = told(home, "attach", GUEST, "--pool", "data", "--vlan", "42")
    mac = answer["mac"]
    assert (answer["network"], answer["live"], answer["config"], answer["vf"]) == (NETWORK, False, True, None)
    xml = definition(home)
    assert f"<source network='{NETWORK}'/>" in xml
    assert f'<vfmigrate:vf mac="{mac}" pool="data" vlan="42"/>' in xml
    home.host.virsh("start", GUEST)
    ((vf, claim),) = home.product.claims().items()
    assert (claim["mac"], claim["vlan"], claim["state"]) == (mac, 42, "plugged")
    assert home.switch_ports()[home.representor(vf_index(home, vf))].tag == 42
    home.host.virsh("destroy", GUEST)

    assert told(home, "detach", GUEST)["mac"] == mac
    assert definition(home) == before


def test_vfs_that_were_attached_are_detached_in_any_order(ready: Pair) -> None:
    """For them libvirt adds ports, whose indexes must be consecutive."""
    home = ready.a
    home.define_guest(Guest(GUEST))
    before = definition(home)
    macs = [told(home, "attach", GUEST, "--pool", "data", "--config")["mac"] for _ in range(3)]
    assert definition(home).count("pcie-root-port") >= before.count("pcie-root-port") + 3
    for mac in macs:
        told(home, "detach", GUEST, "--mac", mac, "--config")
    assert definition(home) == before


def test_a_guest_that_was_defined_before_the_network_gets_a_place_on_pci_express(ready: Pair) -> None:
    """An interface of an unknown network gets a model of libvirt's choice, unless it has one."""
    home = ready.a
    xml = "<interface type='network'><mac address='52:54:00:00:00:07'/><source network='not-yet'/>MODEL</interface>"
    for model, place in (("", "pcie-to-pci-bridge"), ("<model type='virtio'/>", None)):
        home.define_guest(Guest(GUEST, extra=xml.replace("MODEL", model)))
        found = [
            each for each, _ in migrating_guest.read(definition(home), definition(home)).obstacles.values()
        ]
        assert found == ([place] if place else [])


def test_attach_and_detach_on_a_running_guest(running: Node) -> None:
    before, state = definition(running), running.state()

    answer = told(running, "attach", GUEST, "--pool", "data", "--mac", MAC, "--vlan", "43")

    vf = answer["vf"]
    assert (answer["live"], answer["config"]) == (True, True)
    assert vfs_of(running.host.virsh("dumpxml", GUEST)) == [vf]
    (claim,) = running.product.claims().values()
    assert (claim["mac"], claim["vlan"], claim["state"], claim["expires"]) == (MAC, 43, "plugged", None)
    port = running.switch_ports()[running.representor(vf_index(running, vf))]
    assert (port.tag, port.ids["attached-mac"]) == (43, MAC)
    assert running.card.function(vf).driver == "mlx5_vfio_pci"
    assert running.port(vf_index(running, vf)).hw_addr == MAC
    assert f"<source network='{NETWORK}'/>" in definition(running)

    status, output, error = vfmigrate(running, "detach", GUEST)

    assert (status, error) == (0, "")
    assert f"unplugged the VF with MAC {MAC} from the running guest" in output
    assert definition(running) == before
    assert MAC not in running.host.virsh("dumpxml", GUEST)
    wait_for("the VF to be free", lambda: running.product.claims() == {} and running.switch_ports() == {})
    # when it releases a port, the userspace datapath restores the port's earlier flags, perhaps later than this
    running.reconcile()
    assert running.state() == state


def test_an_attached_vf_migrates(ready: Pair, running: Node) -> None:
    b = ready.b
    told(running, "attach", GUEST, "--pool", "data", "--mac", MAC, "--vlan", "43")
    running.wait_until_settled()
    outcome = running.migrate(GUEST, b, "--persistent", "--undefinesource")
    assert outcome.status == 0, outcome.error
    ((vf, claim),) = b.product.claims().items()
    assert (claim["mac"], claim["vlan"]) == (MAC, 43)
    assert vfs_of(b.host.virsh("dumpxml", GUEST)) == [vf]
    assert running.product.claims() == {}
    assert told(b, "detach", GUEST, "--config")["mac"] == MAC


@pytest.mark.usefixtures("networkless")
def test_attach_in_a_pool_without_a_network_names_a_vf_that_the_daemon_chose(
    pair: Pair, request: pytest.FixtureRequest
) -> None:
    """The daemon chooses the VF, and the definition names it until the guest migrates."""
    running: Node = request.getfixturevalue("running")
    answer = told(running, "attach", GUEST, "--pool", "data", "--mac", MAC, "--vlan", "42")
    vf = answer["vf"]
    assert vfs_of(running.host.virsh("dumpxml", GUEST)) == [vf]
    assert vfs_of(definition(running)) == [vf]
    (claim,) = running.product.claims().values()
    assert (claim["vlan"], claim["state"], claim["expires"]) == (42, "plugged", None)
    running.wait_until_settled()
    assert running.migrate(GUEST, pair.b).status == 0
    (claim,) = pair.b.product.claims().values()
    assert claim["vlan"] == 42


def test_attach_to_a_transient_guest_changes_the_running_guest_only(home: Node) -> None:
    home.start_guest(Guest("t", number=2, free_ports=1))
    answer = told(home, "attach", "t", "--pool", "data")
    assert (answer["live"], answer["config"]) == (True, False)
    assert list(home.product.claims()) == [answer["vf"]]


def test_attach_with_config_changes_only_the_definition(running: Node) -> None:
    state = running.state()
    answer = told(running, "attach", GUEST, "--pool", "data", "--config")
    assert (answer["live"], answer["config"]) == (False, True)
    assert running.state() == state
    assert answer["mac"] in definition(running)
    told(running, "detach", GUEST)
    assert answer["mac"] not in definition(running)


def test_a_dry_run_changes_nothing(running: Node) -> None:
    before, state = definition(running), running.state()
    status, output, error = vfmigrate(running, "attach", GUEST, "--pool", "data", "--mac", MAC, "--dry-run")
    assert (status, error) == (0, "")
    assert f"+      <mac address='{MAC}'/>" in output
    assert "nothing changed (--dry-run)" in output
    assert (definition(running), running.state()) == (before, state)


def test_attach_undoes_everything_when_the_port_cannot_be_plugged(running: Node) -> None:
    before, state = definition(running), running.state()
    xml = running.host.virsh("dumpxml", GUEST)
    running.host.vsctl("del-br", BRIDGE)
    try:
        status, output, error = vfmigrate(running, "attach", GUEST, "--pool", "data", "--mac", MAC)
    finally:
        running.host.add_bridge()
    assert (status, output, len(error.splitlines())) == (69, "", 1)
    assert f"is not plugged into {BRIDGE}" in error
    assert definition(running) == before
    wait_for("the metadata to be as before", lambda: running.host.virsh("dumpxml", GUEST) == xml)
    running.become(state)


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        (("attach", "nobody", "--pool", "data"), 1, "has no guest 'nobody'"),
        (("attach", GUEST, "--pool", "gold"), 2, "no pool 'gold'; its pools: data"),
        (("attach", GUEST, "--pool", "data", "--vlan", "99"), 1, "VLAN 99 is not allowed in pool 'data'"),
        (("attach", GUEST, "--pool", "data", "--strategy", "failover"), 1, "add --config"),
        (("attach", GUEST, "--pool", "data", "-c", "qemu+tcp://host-b/system"), 1, "no guest 'g'"),
        (("detach", GUEST), 1, "guest 'g' has no VF"),
        (("detach", GUEST, "--mac", MAC), 1, f"no VF with MAC {MAC}"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(
    running: Node, words: tuple[str, ...], status: int, problem: str
) -> None:
    before, state = definition(running), running.state()
    ended, output, error = vfmigrate(running, *words)
    assert problem in error
    assert (ended, output, len(error.splitlines())) == (status, "", 1)
    assert (definition(running), running.state()) == (before, state)


def test_a_mac_that_is_in_use_is_refused(home: Node) -> None:
    home.define_guest(Guest("other", [Vf(home.vf(1), MAC)], 2))
    status, _, error = vfmigrate(home, "attach", GUEST, "--pool", "data", "--mac", MAC)
    assert (status, error.count("\n")) == (1, 1)
    assert "guest 'other' already has an interface with MAC" in error


def test_without_a_free_vf_a_running_guest_is_refused(running: Node) -> None:
    vfs = [Vf(running.vf(index), f"52:54:00:00:01:0{index}") for index in range(4)]
    running.start_guest(Guest("full", vfs, 2))
    before = definition(running)
    status, _, error = vfmigrate(running, "attach", GUEST, "--pool", "data")
    assert status == 1
    assert "pool 'data' has no free VF on this host" in error
    assert "full" in error
    assert definition(running) == before
    assert told(running, "attach", GUEST, "--pool", "data", "--config")["live"] is False


def test_without_a_free_port_a_running_guest_is_refused(home: Node) -> None:
    home.define_guest(replace(Guest(GUEST), number=1))
    home.host.virsh("start", GUEST)
    status, _, error = vfmigrate(home, "attach", GUEST, "--pool", "data")
    assert status == 1
    assert "guest 'g' has no free PCI Express port" in error
