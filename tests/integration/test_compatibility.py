# SPDX-License-Identifier: GPL-2.0-or-later
"""What a destination refuses before the migration, and how it treats guests without metadata."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import AFTER
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Outcome, Pair, start_products
from tests.integration.test_migration import MAC, vfs_of

pytestmark = pytest.mark.hosts

# a short time for a guest that is to be refused, and one that is enough on a busy machine
WAIT_S = 4
PATIENT_S = 45


def start(node: Node, **configuration: str) -> None:
    """Run vfmigrate on a host with another configuration than usual."""
    node.product.launch(**configuration)  # type: ignore[arg-type]  # texts only
    node.product.wait_until_answering()
    node.wait_until_ready()


def refused(pair: Pair, name: str = "g") -> Outcome:
    """Try to migrate a guest; it must be refused with one line before anything changes on either host."""
    before = (pair.a.state(), pair.b.state())
    outcome = pair.a.migrate(name, pair.b)
    assert outcome.status != 0
    assert len(outcome.error.splitlines()) == 1
    assert pair.b.hooks.operations() == ["migrate begin -"]
    assert (pair.a.state(), pair.b.state()) == before
    return outcome


def test_a_guest_with_a_virtual_iommu_is_refused(ready: Pair) -> None:
    ready.a.start_guest(Guest("g", [Vf(ready.a.vf(1), MAC)], extra="<iommu model='intel'/>"))
    outcome = refused(ready)
    assert "virtual IOMMU" in outcome.error
    assert "remove <iommu>" in outcome.error


def test_a_guest_of_a_pool_that_the_destination_lacks_is_refused(pair: Pair) -> None:
    pair.a.product.start()
    start(pair.b, pool="storage")
    pair.a.start_guest(Guest("g", [Vf(pair.a.vf(1), MAC)]))
    assert "pool 'data', which this host does not have: its pools are storage" in refused(pair).error


def test_a_guest_with_unreadable_metadata_is_refused(ready: Pair) -> None:
    guest = Guest("g", [Vf(ready.a.vf(1), MAC)])
    ready.a.start_guest(guest)
    ready.a.wait_until_settled()
    ready.a.product.stop()  # it would make it readable again
    vfs = "<vfs><vf mac='52:54:00:00:00:02' pool='data' vlan='many'/></vfs>"
    ready.a.host.virsh(
        "metadata", "g", "urn:vfmigrate:domain:1", "--key", "vfmigrate", "--set", vfs, "--live"
    )
    assert "metadata cannot be read: vlan='many'" in refused(ready).error


def unmarked(node: Node) -> None:
    """Run a guest whose metadata does not name its VF, on a host without vfmigrate."""
    marked = Guest("g", [Vf(node.vf(1), MAC)]).xml()
    node.host.virsh("create", "/dev/stdin", stdin=re.sub(r"<metadata>.*</metadata>", "", marked))


def test_a_guest_without_metadata_is_ignored(pair: Pair) -> None:
    """Its VF's address does not exist on the destination, and libvirt says so."""
    start(pair.b)
    before = pair.b.state()
    unmarked(pair.a)
    outcome = pair.a.migrate("g", pair.b)
    assert outcome.status != 0
    assert "vfmigrate" not in outcome.error
    assert pair.b.state() == before


def test_a_guest_without_metadata_is_accepted_by_a_pool_that_says_so(pair: Pair) -> None:
    start(pair.b, more="unmarked = take\nvlan = 43")
    unmarked(pair.a)
    outcome = pair.a.migrate("g", pair.b)
    assert outcome.status == 0, outcome.error
    assert vfs_of(pair.b.host.virsh("dumpxml", "g")) == list(pair.b.product.claims())
    assert [port.tag for port in pair.b.switch_ports().values()] == [43]


def two_guests(pair: Pair, wait: int) -> None:
    """Start two guests on the first host; the second host lets one VF migrate at a time."""
    start(pair.b, more="max_migrating = 1", daemon=f"migrating_wait = {wait}")
    pair.a.product.start()
    for number, name in enumerate(("first", "second"), start=1):
        pair.a.start_guest(Guest(name, [Vf(pair.a.vf(number), f"52:54:00:00:01:0{number}")], number))
    pair.a.wait_until_settled()


def test_a_guest_waits_for_its_turn(pair: Pair) -> None:
    two_guests(pair, PATIENT_S)
    with pair.b.hooks.hold("first", "started", AFTER):
        first = pair.a.begin_migration("first", pair.b)
        pair.b.hooks.wait_for("started", AFTER)
        second = pair.a.begin_migration("second", pair.b)
        wait_for("the second guest to wait", lambda: "guest 'second' waits" in pair.b.product.log())
        # while the second guest waits, the daemon answers others (libvirt reports nothing about a guest in a hook)
        pair.b.start_guest(Guest("third", [Vf(pair.b.vf(0), "52:54:00:00:01:03")], 3))
        names = sorted(claim["domain_name"] for claim in pair.b.product.claims().values())
        assert names == ["first", "third"]
    assert first.finish().status == 0
    outcome = second.finish()
    assert outcome.status == 0, outcome.error
    assert set(pair.b.host.domains()) == {"first", "second", "third"}
    assert len(pair.b.product.claims()) == 3


def test_a_guest_that_waits_too_long_is_refused_with_the_guests_that_migrate(pair: Pair) -> None:
    two_guests(pair, WAIT_S)
    with pair.b.hooks.hold("first", "started", AFTER):
        first = pair.a.begin_migration("first", pair.b)
        pair.b.hooks.wait_for("started", AFTER)
        began = time.monotonic()
        outcome = pair.a.migrate("second", pair.b)
        took = time.monotonic() - began
    assert outcome.status != 0
    assert f"1 VF of PF {pair.b.pf} already migrating (guests first)" in outcome.error
    assert took >= WAIT_S
    assert first.finish().status == 0
    assert pair.a.host.domains() == {"second": "running"}
    assert len(pair.b.product.claims()) == 1


def test_a_guest_with_more_vfs_than_can_migrate_is_refused_at_once(pair: Pair) -> None:
    pair.a.product.start()
    start(pair.b, more="max_migrating = 1", daemon=f"migrating_wait = {PATIENT_S}")
    pair.a.start_guest(Guest("g", [Vf(pair.a.vf(n), f"52:54:00:00:01:0{n}") for n in (1, 2)]))
    pair.a.wait_until_settled()
    began = time.monotonic()
    outcome = refused(pair)
    assert time.monotonic() - began < 40
    assert (
        f"guest 'g' has 2 VFs of PF {pair.a.pf} on the source, and the card can migrate 1 at a time"
        in outcome.error
    )


def test_guests_that_wait_for_their_turn_all_arrive(pair: Pair) -> None:
    """However few may migrate at once, guests that wait for their turn arrive in the end."""
    start_products(pair)
    pair.b.product.stop()
    start(pair.b, more="max_migrating = 1", daemon=f"migrating_wait = {PATIENT_S}")
    guests = [Guest(f"g{n}", [Vf(pair.a.vf(n), f"52:54:00:00:01:0{n}")], n) for n in (1, 2, 3)]
    for guest in guests:
        pair.a.start_guest(guest)
    migrations = [pair.a.begin_migration(guest.name, pair.b) for guest in guests]
    outcomes = [migration.finish() for migration in migrations]
    assert [outcome.status for outcome in outcomes] == [0, 0, 0], outcomes
    assert replace(pair.b.state(), claims={}).guests == {guest.name: "running" for guest in guests}
    assert len(pair.b.product.claims()) == 3
