# SPDX-License-Identifier: GPL-2.0-or-later
"""More guests arrive at once than there are VFs: each VF goes to one guest, and the others are refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.pair import VFS, Pair, start_products
from tests.integration.product import HOOK
from tests.integration.test_migration import vfs_of

pytestmark = pytest.mark.hosts

GUESTS = 20
PATIENCE_S = 300


def crowd(pair: Pair) -> list[Guest]:
    """Guests that each have a VF of the first host."""
    return [
        Guest(f"g{number}", [Vf(pair.a.vf(number), f"52:54:00:00:02:{number:02x}", vlan=42)], number)
        for number in range(GUESTS)
    ]


def test_simultaneous_hook_calls_get_different_vfs_while_there_are_any(ready: Pair) -> None:
    """The hook calls of libvirt when this many migrations begin, without the guests."""

    def ask(guest: Guest) -> tuple[int, str, str]:
        done = ready.b.host.run(HOOK, guest.name, "migrate", "begin", "-", stdin=guest.xml(), check=False)
        return done.returncode, done.stdout, done.stderr

    with ThreadPoolExecutor(GUESTS) as lanes:
        answers = list(lanes.map(ask, crowd(ready)))
    given = [vfs_of(xml)[0] for status, xml, _ in answers if status == 0]
    assert len(given) == VFS
    assert set(given) == set(ready.b.product.claims())
    for status, xml, told in answers:
        if status != 0:
            assert xml == ""
            assert told.startswith("vfmigrate: ")
            assert "no free VF" in told
            assert len(told.splitlines()) == 1


@pytest.mark.long
def test_simultaneous_migrations_get_different_vfs_while_there_are_any(pair: Pair) -> None:
    pair.a.provision(GUESTS)
    start_products(pair)
    guests = crowd(pair)
    for guest in guests:
        pair.a.start_guest(guest)
    pair.a.wait_until_settled(PATIENCE_S)
    migrations = [pair.a.begin_migration(guest.name, pair.b) for guest in guests]
    outcomes = {guest.name: migration.finish(PATIENCE_S) for guest, migration in zip(guests, migrations)}
    gone = {name for name, outcome in outcomes.items() if outcome.status == 0}
    assert len(gone) == VFS, outcomes
    assert pair.b.host.domains() == dict.fromkeys(gone, "running")
    assert pair.a.host.domains() == dict.fromkeys(outcomes.keys() - gone, "running")
    vfs = [vfs_of(pair.b.host.virsh("dumpxml", name))[0] for name in gone]
    assert len(set(vfs)) == VFS
    assert set(pair.b.product.claims()) == set(vfs)
    refusals = [outcome.error for outcome in outcomes.values() if outcome.status != 0]
    assert [error for error in refusals if "pool 'data'" not in error] == []
    pair.a.reconcile()
    assert len(pair.a.product.claims()) == len(pair.a.switch_ports()) == GUESTS - VFS
