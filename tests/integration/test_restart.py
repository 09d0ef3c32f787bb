# SPDX-License-Identifier: GPL-2.0-or-later
"""Daemons that restart or are killed: libvirtd and vfmigrated. No guest and no claim is lost."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import BEFORE
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Pair
from tests.integration.product import CLAIMS
from tests.integration.test_migration import vf_index

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"


@pytest.mark.parametrize("daemon", [True, False])
def test_a_running_guest_keeps_port_and_claim_when_libvirtd_restarts(ready: Pair, daemon: bool) -> None:
    """A hook that fails at `reconnect` kills the guest, so vfmigrate's must succeed, with or without vfmigrated."""
    node = ready.a
    node.start_guest(Guest("g", [Vf(node.vf(1), MAC, vlan=42)]))
    node.wait_until_settled()
    before = node.state()
    if not daemon:
        node.product.stop()
    node.restart_libvirtd()
    node.hooks.wait_for("reconnect")
    assert node.host.domains() == {"g": "running"}
    assert node.state() == before


def test_running_guests_without_claims_are_adopted(ready: Pair) -> None:
    node = ready.a
    node.start_guest(Guest("g", [Vf(node.vf(1), MAC, vlan=42)]))
    node.wait_until_settled()
    before = node.state()
    node.product.stop("KILL")
    shutil.rmtree(node.host.path(CLAIMS))
    node.product.start()
    wait_for("the running guest's VF to be claimed again", lambda: node.state() == before)


def test_a_restarted_daemon_continues_the_migration_of_a_killed_one(ready: Pair) -> None:
    """The daemon that answers `start` uses the reservation that another one made at `migrate`."""
    a, b = ready.a, ready.b
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42)]))
    with b.hooks.hold("g", "start", BEFORE):
        migration = a.begin_migration("g", b)
        b.hooks.wait_for("start")
        (reserved,) = b.product.claims()
        b.product.stop("KILL")
        b.product.start()
    outcome = migration.finish()
    assert outcome.status == 0, outcome.error
    state = b.state()
    assert list(state.claims) == [reserved]
    assert [port.tag for port in state.switch_ports.values()] == [42]


def test_a_source_daemon_that_was_down_cleans_up_when_it_is_back(ready: Pair) -> None:
    """`stopped` and `release` cannot be refused: the daemon cleans up when it is back."""
    a, b = ready.a, ready.b
    before = a.state()
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42)]))
    a.product.stop("KILL")
    assert a.migrate("g", b).status == 0
    assert a.host.ports() == [a.representor(1)]
    a.product.age_claims(60)
    a.product.start()
    a.become(before)


def test_the_configuration_is_reloaded_during_a_migration(ready: Pair) -> None:
    """The pool gets another VLAN between two hooks: neither the claim nor the request of the guest is lost."""
    a, b = ready.a, ready.b
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42)]))
    configuration = "/etc/vfmigrate/vfmigrate.conf"
    with b.hooks.hold("g", "start", BEFORE):
        migration = a.begin_migration("g", b)
        b.hooks.wait_for("start")
        before = b.product.claims()
        text = b.host.path(configuration).read_text()
        b.host.write(configuration, text.replace("vlans = 42-43", "vlans = 42-44"))
        b.product.reload()
        wait_for("the pool to have the VLAN", lambda: vlans(b) == [42, 43, 44])
        assert b.product.claims() == before
    outcome = migration.finish()
    assert outcome.status == 0, outcome.error
    assert b.switch_ports()[b.representor(vf_index(b, next(iter(b.state().claims))))].tag == 42


def vlans(node: Node) -> list[int]:
    """The VLANs that the pool allows."""
    (pool,) = json.loads(node.host.run("vfmigrate", "status", "--json").stdout)["pools"]
    found = pool["vlans"]
    assert isinstance(found, list)
    return found
