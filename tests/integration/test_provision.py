# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate provision` on a namespace host: real sysfs files, netlink, Open vSwitch and libvirt."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.fakes.card import LEGACY, SWITCHDEV
from tests.fakes.hardware import Hardware
from tests.integration.guests import Guest, Vf
from tests.integration.hosts import BRIDGE, UPLINK, wait_for
from tests.integration.pair import Node, Pair

DROP_IN = "/etc/vfmigrate/vfmigrate.conf.d/provision.conf"
NETWORK = "vfmigrate-data"
MAC = "52:54:00:00:00:02"


class Bare:
    """A host whose card is in its initial state, and the daemon on it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.host = node.host
        node.card.numvfs(node.pf, "0")
        node.card.set_eswitch_mode(node.pf, LEGACY)
        node.card.autoprobe(node.pf, "1")
        self.host.vsctl("clear", "Open_vSwitch", ".", "other_config")
        self.host.vsctl("--if-exists", "del-port", BRIDGE, UPLINK)

    def configure(self, text: str) -> None:
        """Add keys to the pool, and restart the daemon."""
        self.node.product.stop()
        self.host.write(DROP_IN, f"[pool data]\n{text}")
        self.node.product.start()

    def ask(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.host.run("vfmigrate", "provision", *words, check=False)

    def provision(self, *words: str) -> dict[str, Any]:
        """The outcome of the only pool."""
        (outcome,) = json.loads(self.ask("--json", *words).stdout)["pools"]
        return cast("dict[str, Any]", outcome)

    def changes(self) -> list[str]:
        """The changes that a dry run shows."""
        return cast("list[str]", self.provision("--dry-run")["changes"])


@pytest.fixture
def bare(pair: Pair) -> Iterator[Bare]:
    bare = Bare(pair.a)
    bare.configure("vfs = 4\nmsix = 16\n")
    yield bare
    for name, state in bare.host.domains().items():
        if state != "shut off":
            bare.host.virsh("destroy", name)
    bare.node.product.stop()
    bare.host.path(DROP_IN).unlink()
    for verb in ("net-destroy", "net-undefine"):
        bare.host.run("virsh", verb, NETWORK, check=False)
    bare.host.vsctl("--may-exist", "add-port", BRIDGE, UPLINK)


def test_a_second_provisioning_of_a_bare_host_changes_nothing(bare: Bare) -> None:
    planned = bare.changes()
    node, card = bare.node, bare.node.card
    assert card.eswitch_mode(node.pf) == LEGACY
    outcome = bare.provision()
    assert outcome["error"] is None
    assert planned == [
        f"set sriov_drivers_autoprobe of PF {node.pf} to 0",
        f"set the eswitch of PF {node.pf} to switchdev (its link goes down meanwhile)",
        f"create 4 VFs on PF {node.pf}",
        f"give the 4 VFs of PF {node.pf} 16 MSI-X vectors each",
        f"set migratable of the 4 VFs of PF {node.pf}",
        "set other_config hw-offload=true max-idle=300000 of Open vSwitch",
        f"plug {UPLINK} into {BRIDGE}",
        f"define libvirt network {NETWORK} with 4 VFs",
        f"start libvirt network {NETWORK}",
        f"set libvirt network {NETWORK} to autostart",
    ]
    assert outcome["changes"] == [
        f"set sriov_drivers_autoprobe of PF {node.pf} to 0",
        f"set the eswitch of PF {node.pf} to switchdev (its link goes down meanwhile)",
        f"created 4 VFs on PF {node.pf}",
        f"gave the 4 VFs of PF {node.pf} 16 MSI-X vectors each",
        f"set migratable of the 4 VFs of PF {node.pf}",
        "set other_config hw-offload=true max-idle=300000 of Open vSwitch",
        f"plugged {UPLINK} into {BRIDGE}",
        f"defined libvirt network {NETWORK} with 4 VFs",
        f"started libvirt network {NETWORK}",
        f"set libvirt network {NETWORK} to autostart",
    ]
    assert card.eswitch_mode(node.pf) == SWITCHDEV
    vfs = [each for each in card.functions() if each.pf is not None]
    assert [(each.driver, each.msix) for each in vfs] == [(None, 16)] * 4
    assert all(port.migratable for port in card.ports(node.pf) if port.vf is not None)
    assert UPLINK in bare.host.vsctl("list-ports", BRIDGE).split()
    assert bare.host.vsctl("get", "Open_vSwitch", ".", "other_config:hw-offload") == '"true"'
    assert bare.host.virsh("net-list", "--name", "--autostart").split() == [NETWORK]
    touched = len(card.changes())
    again = bare.ask()
    assert again.stdout.splitlines()[-1] == "data: nothing to change"
    assert len(card.changes()) == touched


def test_provisioning_changes_nothing_for_a_running_guest(bare: Bare) -> None:
    bare.provision()
    bare.node.start_guest(Guest("g", [Vf(bare.node.vf(0), MAC, network=NETWORK, form="network")]))
    before = bare.node.state()
    bare.configure("vfs = 8\n")
    refused = bare.ask()
    assert refused.returncode == 1
    assert "removes all VFs of the PF" in refused.stderr
    assert f"VF {bare.node.vf(0)} is held by guest 'g'" in refused.stderr
    after = bare.node.state()
    assert (after.guests, after.switch_ports, after.drivers) == (
        before.guests,
        before.switch_ports,
        before.drivers,
    )
    bare.host.virsh("destroy", "g")
    assert f"removed the 4 VFs of PF {bare.node.pf}" in bare.provision()["changes"]
    assert len([each for each in bare.node.card.functions() if each.pf is not None]) == 8


def test_an_error_stops_provisioning_of_the_pool(bare: Bare) -> None:
    bare.node.card.refit(Hardware(firmware="28.33.0800"))
    done = bare.ask()
    assert done.returncode == 69
    told = f"PF {bare.node.pf} runs firmware 28.33.0800, migration needs 28.36.1010 or newer"
    assert told in " ".join(done.stdout.split())
    assert told in done.stderr
    assert bare.node.card.eswitch_mode(bare.node.pf) == LEGACY


def test_the_error_about_a_busy_eswitch_has_a_remedy(bare: Bare) -> None:
    bare.node.card.occupy_eswitch(bare.node.pf, 1)
    done = bare.ask()
    assert "E-Switch is busy; offloaded flows use it" in done.stderr
    bare.node.card.occupy_eswitch(bare.node.pf, 0)


def test_provisioning_a_pf_as_udev_does(bare: Bare) -> None:
    assert bare.provision("--pf", bare.node.pf)["error"] is None
    other = bare.ask("--pf", "0000:99:00.0")
    assert (other.returncode, other.stdout) == (
        0,
        "no pool has PF 0000:99:00.0; nothing to provision\n",
    )


def test_provisioning_waits_for_a_card_that_appears_late(bare: Bare) -> None:
    bare.node.card.unbind("mlx5_core", bare.node.pf)
    asked = bare.host.spawn("vfmigrate", "provision", "--wait", "30")
    assert bare.ask("nonsense").returncode == 2  # the daemon still answers
    bare.node.card.drivers_probe(bare.node.pf)
    told, _ = asked.communicate(timeout=30)
    assert asked.returncode == 0
    assert f"created 4 VFs on PF {bare.node.pf}" in told


def test_the_network_is_defined_when_libvirt_starts(bare: Bare) -> None:
    bare.host.stop_libvirtd()
    outcome = bare.provision()
    assert outcome["error"] is None
    assert any("will be defined when libvirt runs" in finding["text"] for finding in outcome["findings"])
    bare.node.start_libvirtd()
    wait_for("the network to run", lambda: NETWORK in bare.host.virsh("net-list", "--name").split())


def test_the_status_of_a_ready_host(bare: Bare) -> None:
    bare.provision()
    told = json.loads(bare.host.run("vfmigrate", "status", "--json").stdout)
    (pool,) = told["pools"]
    (pf,) = pool["pfs"]
    assert [problem for vf in pf["vfs"] for problem in vf["problems"]] == []
    assert (pf["problems"], pf["mode"], len(pf["vfs"])) == ([], "switchdev", 4)
    shown = bare.host.run("env", "COLUMNS=80", "script", "-qec", "vfmigrate status", "/dev/null")
    assert shown.stdout.startswith("pool ")
    assert all(len(line) <= 80 for line in shown.stdout.splitlines())
