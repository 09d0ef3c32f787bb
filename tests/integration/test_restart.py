# SPDX-License-Identifier: GPL-2.0-or-later
"""Daemons that restart or are killed: libvirtd and vfmigrated. No guest and no claim is lost."""

from __future__ import annotations

import shutil

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import BEFORE
from tests.integration.hosts import wait_for
from tests.integration.pair import Pair
from tests.integration.product import CLAIMS

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
