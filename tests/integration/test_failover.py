# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate failover` on definitions in real libvirt: valid by its schema, and undone byte for byte."""

from __future__ import annotations

import json

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import AFTER
from tests.integration.hosts import BRIDGE, wait_for
from tests.integration.pair import Node, Pair
from vfmigrate.domain import domain_xml
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import failover_pair

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
GUEST = "g"
ALIAS = "ua-standby-525400000002"


def failover(node: Node, *words: str) -> tuple[int, str, str]:
    """Status, output and error of the command."""
    done = node.host.run("vfmigrate", "failover", *words, check=False)
    return done.returncode, done.stdout, done.stderr


def definition(node: Node) -> str:
    return node.host.virsh("dumpxml", "--inactive", "--security-info", GUEST)


@pytest.fixture
def home(pair: Pair) -> Node:
    """A host with a defined guest that has one VF."""
    pair.a.define_guest(Guest(GUEST, [Vf(pair.a.vf(1), MAC)]))
    return pair.a


@pytest.mark.parametrize("form", ["interface", "network"])
@pytest.mark.parametrize("vlan", [(), ("--vlan", "42")], ids=["untagged", "tagged"])
def test_a_pair_migrates_there_and_back(pair: Pair, vlan: tuple[str, ...], form: str) -> None:
    if form == "network":
        pair.a.make_network("data")
    pair.a.define_guest(Guest(GUEST, [Vf(pair.a.vf(1), MAC, form=form)]))
    before = definition(pair.a)

    status, told, error = failover(pair.a, "enable", GUEST, "--standby-bridge", BRIDGE, *vlan)

    assert (status, error) == (0, "")
    assert f"+      <teaming type='transient' persistent='{ALIAS}'/>" in told
    assert "takes effect at the guest's next boot" in told
    enabled = definition(pair.a)
    pair.a.host.virsh("define", "--validate", "/dev/stdin", stdin=enabled)
    assert f"<alias name='{ALIAS}'/>" in enabled
    assert "<virtualport type='openvswitch'" in enabled
    assert ("<tag id='42'/>" in enabled) == bool(vlan)
    (shown,) = json.loads(failover(pair.a, "show", GUEST, "--json")[1])["pairs"]
    assert (shown["mac"], shown["source"], shown["problem"]) == (MAC, BRIDGE, None)

    assert failover(pair.a, "disable", GUEST)[0] == 0
    assert definition(pair.a) == before


def test_pairs_are_disabled_in_the_order_in_which_they_were_enabled(pair: Pair) -> None:
    """For each standby libvirt adds a port; the first can be removed only when the last has gone."""
    macs = [f"52:54:00:00:00:0{number}" for number in (2, 3, 4)]
    vfs = [Vf(pair.a.vf(number), mac) for number, mac in enumerate(macs, 1)]
    pair.a.define_guest(Guest(GUEST, vfs))
    before = definition(pair.a)
    for mac in macs:
        assert failover(pair.a, "enable", GUEST, "--standby-bridge", BRIDGE, "--mac", mac)[0] == 0
    for mac in macs:
        assert failover(pair.a, "disable", GUEST, "--mac", mac)[0] == 0
    assert definition(pair.a) == before


def test_a_dry_run_changes_nothing(home: Node) -> None:
    before = definition(home)
    status, told, _ = failover(home, "enable", GUEST, "--standby-bridge", BRIDGE, "--dry-run")
    assert status == 0
    assert "+      <teaming type='persistent'/>" in told
    assert definition(home) == before


def test_enabling_twice_changes_nothing(home: Node) -> None:
    assert failover(home, "enable", GUEST, "--standby-bridge", BRIDGE)[0] == 0
    once = definition(home)
    assert failover(home, "enable", GUEST, "--standby-bridge", BRIDGE) == (0, "nothing to do\n", "")
    assert definition(home) == once


def test_json_has_the_difference_and_what_would_be_done(home: Node) -> None:
    words = ("enable", GUEST, "--standby-bridge", BRIDGE, "--json")
    status, told, error = failover(home, *words, "--dry-run")
    planned = json.loads(told)
    assert (status, error) == (0, "")
    assert "+      <teaming type='persistent'/>" in planned["difference"]
    assert (planned["running"], planned["live"], planned["dry_run"]) == (False, False, True)
    made = json.loads(failover(home, *words)[1])
    assert made == {**planned, "dry_run": False}
    assert json.loads(failover(home, *words)[1])["difference"] == ""
    assert (
        "-      <teaming type='persistent'/>"
        in json.loads(failover(home, "disable", GUEST, "--json")[1])["difference"]
    )


def test_the_output_for_a_running_guest_says_when_the_change_takes_effect(home: Node) -> None:
    home.host.virsh("start", GUEST)
    running = home.host.virsh("dumpxml", GUEST)
    _, told, _ = failover(home, "enable", GUEST, "--standby-bridge", BRIDGE)
    assert "next boot: shut it down, then start it" in told
    assert home.host.virsh("dumpxml", GUEST) == running


def test_qemu_starts_with_the_pair(home: Node) -> None:
    """The pair starts: QEMU checks the standby's model and the VF's address, libvirt the rest."""
    assert failover(home, "enable", GUEST, "--standby-bridge", BRIDGE, "--vlan", "42")[0] == 0
    home.host.virsh("start", GUEST)
    pid = home.host.pid_of(f"/run/libvirt/qemu/{GUEST}.pid")
    options = home.host.path(f"/proc/{pid}/cmdline").read_text()
    assert f'"failover_pair_id":"{ALIAS}"' in options
    assert '"failover":true' in options


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("enable", "nobody", "--standby-bridge", BRIDGE), "has no guest 'nobody'"),
        (("enable", GUEST, "--standby-bridge", "br-none"), "there is no bridge 'br-none' on this host"),
        (("enable", GUEST, "--standby-network", "none"), "libvirt has no network 'none'"),
        (("enable", GUEST, "--standby-bridge", BRIDGE, "--mac", "52:54:00:00:00:09"), "no VF with MAC"),
        (("enable", GUEST, "--standby-bridge", BRIDGE, "--alias", "x"), "begin it with ua-"),
        (("disable", GUEST), "has no failover pair"),
        (("disable", GUEST, "-c", "qemu+unix:///system?socket=/nowhere"), "cannot connect to libvirt"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(home: Node, words: tuple[str, ...], told: str) -> None:
    before = definition(home)
    status, _, error = failover(home, *words)
    assert status != 0
    assert told in error
    assert len(error.splitlines()) == 1
    assert definition(home) == before


def test_enabling_for_a_transient_guest_is_refused(pair: Pair) -> None:
    pair.a.start_guest(Guest(GUEST, [Vf(pair.a.vf(1), MAC)]))
    _, _, error = failover(pair.a, "enable", GUEST, "--standby-bridge", BRIDGE)
    assert "guest 'g' is transient" in error


# -- migrating a pair


@pytest.fixture
def paired(ready: Pair) -> Pair:
    """A guest with a failover pair in VLAN 42 runs on the first host, and its driver has the VF."""
    ready.a.define_guest(Guest(GUEST, [Vf(ready.a.vf(1), MAC)]))
    assert failover(ready.a, "enable", GUEST, "--standby-bridge", BRIDGE, "--vlan", "42")[0] == 0
    ready.a.host.virsh("start", GUEST)
    ready.a.card.set_bus_master(ready.a.vf(1), True)
    wait_for("the VF's port", lambda: ready.a.representor(1) in ready.a.switch_ports())
    ready.a.wait_until_settled()
    return ready


def test_the_port_is_up_on_the_host_where_the_guest_takes_its_vf(paired: Pair) -> None:
    a, b = paired.a, paired.b
    assert a.switch_ports()[a.representor(1)].tag == 42

    outcome = a.migrate(GUEST, b)

    assert outcome.status == 0, outcome.error
    ((vf, claim),) = b.product.claims().items()
    assert (claim["strategy"], claim["vlan"]) == ("failover", 42)
    representors = [b.representor(index) for index in range(4)]
    assert not set(representors) & set(b.switch_ports())  # the guest still uses its standby
    b.card.set_bus_master(vf, True)
    wait_for("the VF's port", lambda: bool(set(representors) & set(b.switch_ports())))
    (port,) = set(representors) & set(b.switch_ports())
    assert b.switch_ports()[port].tag == 42
    assert a.switch_ports() == {}
    assert a.product.claims() == {}


def test_vfmigrate_migrate_waits_for_the_guest_to_take_its_vf(paired: Pair) -> None:
    a, b = paired.a, paired.b
    command = a.host.spawn("vfmigrate", "migrate", GUEST, f"qemu+tcp://{b.host.name}/system")
    wait_for("the guest to arrive", lambda: b.host.domains().get(GUEST) == "running", seconds=60)
    (vf,) = b.product.claims()
    b.card.set_bus_master(vf, True)
    output, error = command.communicate(timeout=60)
    assert (command.returncode, error) == (0, "")
    assert f"with {MAC} by failover" in output
    # the network device behind the VF can send IPv6
    assert f"{MAC} is plugged" in output or f"{MAC} carries traffic" in output


def test_a_destination_without_the_standbys_bridge_refuses_and_the_pair_stays_complete(paired: Pair) -> None:
    a, b = paired.a, paired.b
    xml = a.host.virsh("dumpxml", "--migratable", GUEST).replace(f"bridge='{BRIDGE}'", "bridge='br-gone'")
    before = (a.state(), b.state())
    a.host.write("/run/moving.xml", xml)

    outcome = a.migrate(GUEST, b, "--xml", "/run/moving.xml")

    assert outcome.status != 0
    assert "there is no bridge 'br-gone' on this host" in outcome.error
    assert len(outcome.error.splitlines()) == 1
    assert (a.state(), b.state()) == before


def test_a_failed_migration_leaves_the_pair_complete(paired: Pair) -> None:
    a, b = paired.a, paired.b
    before = a.state()
    b.hooks.refuse("started", "no", AFTER)
    assert a.migrate(GUEST, b).status != 0
    assert a.state() == before
    assert b.product.claims() == {}


def test_a_migration_that_fails_half_way_leaves_the_pair_complete(paired: Pair) -> None:
    """QEMU on the destination dies in the middle: the guest continues on the source with its VF."""
    a, b = paired.a, paired.b
    before = (a.state(), a.host.virsh("dumpxml", GUEST))
    with b.hooks.hold(GUEST, "started", AFTER):
        migration = a.begin_migration(GUEST, b)
        b.hooks.wait_for("started", AFTER)
        b.host.run("kill", "-KILL", str(b.host.pid_of(f"/run/libvirt/qemu/{GUEST}.pid")))
    assert migration.finish().status != 0
    wait_for("the pair to be as before", lambda: (a.state(), a.host.virsh("dumpxml", GUEST)) == before)
    wait_for("the destination to forget the guest", lambda: b.product.claims() == {})
    assert b.switch_ports() == {}


def test_a_cancelled_migration_leaves_the_pair_complete(paired: Pair) -> None:
    a, b = paired.a, paired.b
    before = (a.state(), a.host.virsh("dumpxml", GUEST))
    migration = a.begin_migration(GUEST, b, "--bandwidth", "1")
    wait_for("memory on its way", lambda: "Data processed" in a.host.virsh("domjobinfo", GUEST, check=False))
    a.host.virsh("domjobabort", GUEST)
    assert migration.finish().status != 0
    wait_for("the pair to be as before", lambda: (a.state(), a.host.virsh("dumpxml", GUEST)) == before)
    wait_for("the destination to forget the guest", lambda: b.product.claims() == {})
    assert b.switch_ports() == {}


PLUG_AGAIN = """\
import sys, threading
from vfmigrate.config.libvirt_access import LibvirtAccess
from vfmigrate.journal import Journal
from vfmigrate.virt.daemon_connection import Receiver
from vfmigrate.virt.hypervisor import Hypervisor
connected = threading.Event()
libvirt = Hypervisor(LibvirtAccess(), Journal())
libvirt.start(Receiver(lambda event: None, connected.set, lambda network, uri: None))
assert connected.wait(20)
libvirt.plug_again(sys.argv[1], sys.argv[2], lambda xml: sys.argv[3])
"""


def test_the_vf_of_a_pair_is_plugged_in_again(paired: Pair) -> None:
    """As for a guest whose QEMU did not get its VF: libvirt unplugs it and plugs it in again, as part of the pair."""
    a = paired.a
    vf = a.vf(1)
    before = len(a.card.changes())
    uuid = a.host.virsh("domuuid", GUEST)
    a.host.run("python3", "-c", PLUG_AGAIN, uuid, MAC, "")
    changes = a.card.changes()[before:]
    assert ("unbind", vf, "mlx5_vfio_pci") in changes
    assert a.card.function(vf).driver == "mlx5_vfio_pci"
    live = a.host.virsh("dumpxml", GUEST)
    assert f"<teaming type='transient' persistent='{ALIAS}'/>" in live
    assert [claim["state"] for claim in a.product.claims().values()] == ["plugged"]
    error = a.host.run(
        "python3", "-c", PLUG_AGAIN, "22222222-1111-4111-8111-000000000001", MAC, "", check=False
    ).stderr
    assert "LibvirtError: libvirt: plugging a VF in again: Domain not found" in error


def test_a_vf_that_was_lost_between_two_steps_is_plugged_in_again(paired: Pair) -> None:
    """An earlier attempt unplugged it and could not plug it in: libvirt has forgotten it, the claim has not."""
    a = paired.a
    vf = a.vf(1)
    uuid = a.host.virsh("domuuid", GUEST)
    live = domain_xml.read(a.host.virsh("dumpxml", "--migratable", GUEST))
    (interface,) = live.interfaces
    text = domain_xml.device(a.host.virsh("dumpxml", "--migratable", GUEST), interface.position)
    a.host.virsh("detach-device", GUEST, "/dev/stdin", "--live", stdin=text)
    wait_for(
        "libvirt to forget the VF", lambda: not domain_xml.read(a.host.virsh("dumpxml", GUEST)).interfaces
    )

    spare = failover_pair.transient_device(live, MAC, PciAddress.parse(vf), plain=False, managed=True)
    a.host.run("python3", "-c", PLUG_AGAIN, uuid, MAC, spare)

    (found,) = domain_xml.read(a.host.virsh("dumpxml", GUEST)).interfaces
    assert (str(found.address), found.teaming, found.standby) == (vf, "transient", ALIAS)
    assert a.card.function(vf).driver == "mlx5_vfio_pci"
    assert list(a.product.claims()) == [vf]
