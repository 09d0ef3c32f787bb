# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations that are cancelled, and processes that die during one: the guest runs on exactly one host.

`journey` checks the states of both hosts.
"""

from __future__ import annotations

import re

import pytest

from tests.integration.hook_calls import AFTER, BEFORE
from tests.integration.hosts import wait_for
from tests.integration.journey import BALLAST_MIB, NAME, PATIENCE_S, Journey
from tests.integration.pair import Node, Pair, start_products

pytestmark = pytest.mark.hosts

# libvirt's own file, on the host that runs the guest
GUEST_PID = f"/run/libvirt/qemu/{NAME}.pid"


@pytest.fixture
def hasty(pair: Pair) -> Pair:
    """Both hosts with daemons whose reservations soon expire."""
    start_products(pair, claim_timeout=5)
    return pair


def test_a_migration_that_is_cancelled_while_memory_is_copied_leaves_the_guest(hasty: Pair) -> None:
    journey = Journey(hasty, ballast=BALLAST_MIB)
    migration = journey.begin_slowly()
    hasty.a.host.virsh("domjobabort", NAME)
    outcome = migration.finish()
    assert outcome.status != 0
    # libvirt's message depends on which end it notices first.
    assert re.search("canceled by client|migration failed", outcome.error), outcome.error
    journey.stays()
    assert hasty.b.hooks.operations()[-2:] == ["stopped end -", "release end failed"]


@pytest.mark.parametrize(
    "copying", [False, pytest.param(True, marks=pytest.mark.long)], ids=["waiting", "copying"]
)
def test_the_guest_stays_when_qemu_on_the_destination_dies(hasty: Pair, copying: bool) -> None:
    journey = Journey(hasty, ballast=BALLAST_MIB)
    if copying:
        migration = journey.begin_slowly()
        hasty.b.host.stop(GUEST_PID, "KILL")
    else:
        with hasty.b.hooks.hold(NAME, "started", AFTER):
            migration = hasty.a.begin_migration(NAME, hasty.b)
            hasty.b.hooks.wait_for("started", AFTER)
            hasty.b.host.stop(GUEST_PID, "KILL")
    outcome = migration.finish()
    assert outcome.status != 0
    assert outcome.error
    journey.stays()


def test_a_migration_whose_source_host_is_gone_leaves_nothing(hasty: Pair) -> None:
    """Its guest is lost with it. Both hosts look as if there had been no migration once the source is back."""
    a, b = hasty.a, hasty.b
    journey = Journey(hasty, ballast=BALLAST_MIB)
    migration = journey.begin_slowly()
    a.product.stop("KILL")
    migration.kill()
    a.host.stop_libvirtd()
    a.host.stop(GUEST_PID, "KILL")
    wait_for("the destination to give up", lambda: b.host.domains() == {}, PATIENCE_S)
    b.reconcile()
    b.become(journey.empty[1])
    a.start_libvirtd()
    a.product.age_claims(60)
    a.product.start()
    a.become(journey.empty[0], seconds=PATIENCE_S)


def kill_libvirtd(node: Node) -> None:
    """End libvirtd with SIGKILL and start another one, as systemd does."""
    node.host.stop_libvirtd()
    node.start_libvirtd()


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.long
def test_libvirtd_dies_while_the_memory_is_copied(hasty: Pair, victim: str) -> None:
    journey = Journey(hasty, ballast=BALLAST_MIB)
    migration = journey.begin_slowly()
    kill_libvirtd(getattr(hasty, victim))
    outcome = migration.finish()
    assert outcome.status != 0
    assert outcome.error
    journey.stays()


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.parametrize("stage", ["migrate", "prepare", "start", "started"])
@pytest.mark.long
def test_libvirtd_dies_while_the_destination_prepares(hasty: Pair, stage: str, victim: str) -> None:
    journey = Journey(hasty)
    journey.learn()
    with hasty.b.hooks.hold(NAME, stage, BEFORE):
        hasty.b.hooks.clear_calls()
        migration = hasty.a.begin_migration(NAME, hasty.b)
        hasty.b.hooks.wait_for(stage)
        kill_libvirtd(getattr(hasty, victim))
    outcome = migration.finish()
    assert journey.arrives_or_stays() == (outcome.status == 0), outcome.error


@pytest.mark.parametrize("victim", ["a", "b"])
@pytest.mark.long
def test_libvirtd_dies_while_the_guest_leaves_the_source(hasty: Pair, victim: str) -> None:
    """The guest runs on the destination already; virsh need not learn it."""
    journey = Journey(hasty)
    journey.learn()
    with hasty.a.hooks.hold(NAME, "stopped", BEFORE):
        hasty.a.hooks.clear_calls()
        migration = hasty.a.begin_migration(NAME, hasty.b)
        hasty.a.hooks.wait_for("stopped")
        kill_libvirtd(getattr(hasty, victim))
    migration.finish()
    assert journey.arrives_or_stays()
