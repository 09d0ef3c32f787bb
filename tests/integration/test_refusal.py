# SPDX-License-Identifier: GPL-2.0-or-later
"""Migrations that are refused at each stage, fail later, or are given up. Both hosts are as before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.fakes.hardware import Hardware
from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import AFTER, BEFORE
from tests.integration.hosts import BRIDGE
from tests.integration.pair import Pair, State, start_products
from tests.testbed.run import CommandError

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
GUEST = "g"
REFUSAL = "the other hook says no"


def go_home(pair: Pair) -> None:
    """Start a guest with a VF on the first host."""
    pair.a.start_guest(Guest(GUEST, [Vf(pair.a.vf(1), MAC, vlan=42)]))
    pair.a.wait_until_settled()


@pytest.fixture
def home(ready: Pair) -> Iterator[tuple[State, State]]:
    """The state of both hosts once a guest with a VF runs on the first; asserted to be so again at the end."""
    go_home(ready)
    before = (ready.a.state(), ready.b.state())
    assert before[0].guests == {GUEST: "running"}
    yield before
    ready.a.become(before[0])
    ready.b.become(before[1])


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("script", [BEFORE, AFTER])
@pytest.mark.parametrize("stage", ["prepare", "start", "started"])
def test_a_refusal_of_another_hook_leaves_nothing(ready: Pair, stage: str, script: str) -> None:
    ready.b.hooks.refuse(stage, REFUSAL, script)
    outcome = ready.a.migrate(GUEST, ready.b)
    assert outcome.status != 0
    assert REFUSAL in outcome.error


@pytest.mark.parametrize("script", [BEFORE, AFTER])
def test_a_refusal_of_another_hook_at_migrate_leaves_a_reservation_that_expires(
    pair: Pair, script: str
) -> None:
    """After a refused `migrate` libvirt calls no hook to clean up: the reservation of the VF expires."""
    start_products(pair, claim_timeout=5, reconcile_interval=1)
    go_home(pair)
    before = (pair.a.state(), pair.b.state())
    pair.b.hooks.refuse("migrate", REFUSAL, script)

    outcome = pair.a.migrate(GUEST, pair.b)

    assert outcome.status != 0
    assert REFUSAL in outcome.error
    assert pair.b.hooks.operations() == ["migrate begin -"]
    assert [state for _, state in pair.b.state().claims.values()] == ["reserved"]
    pair.a.become(before[0])
    pair.b.become(before[1])


def test_a_pool_without_free_vfs_refuses_and_names_the_holders(
    ready: Pair, home: tuple[State, State]
) -> None:
    others = [Guest(f"other{n}", [Vf(ready.b.vf(n), f"52:54:00:00:01:0{n}")], 10 + n) for n in range(4)]
    for other in others:
        ready.b.start_guest(other)
    before = ready.b.state()

    outcome = ready.a.migrate(GUEST, ready.b)

    assert outcome.status != 0
    assert "pool 'data'" in outcome.error
    for other in others:
        assert f"'{other.name}'" in outcome.error
    assert len(outcome.error.splitlines()) == 1
    assert (ready.a.state(), ready.b.state()) == (home[0], before)
    for other in others:
        ready.b.host.virsh("destroy", other.name)


@pytest.mark.parametrize(
    ("card", "there", "here"),
    [
        (replace(Hardware(), psid="MT_0000000999"), "MT_0000000892", "MT_0000000999"),
        (replace(Hardware(), firmware="28.39.2048"), "28.42.1000", "28.39.2048"),
        (replace(Hardware(), vf_msix=9), "11", "9"),
    ],
    ids=["psid", "firmware", "msix"],
)
def test_a_destination_with_another_card_refuses_and_names_both_values(
    pair: Pair, card: Hardware, there: str, here: str
) -> None:
    pair.b.card.refit(card)
    pair.b.provision()
    start_products(pair)
    go_home(pair)
    before = (pair.a.state(), pair.b.state())

    outcome = pair.a.migrate(GUEST, pair.b)

    assert outcome.status != 0
    assert there in outcome.error
    assert here in outcome.error
    assert (pair.a.state(), pair.b.state()) == before


@pytest.mark.usefixtures("home")
def test_a_destination_without_the_bridge_refuses(ready: Pair) -> None:
    ready.b.host.vsctl("del-br", BRIDGE)
    outcome = ready.a.migrate(GUEST, ready.b)
    ready.b.host.add_bridge()
    assert outcome.status != 0
    assert f"'{BRIDGE}'" in outcome.error
    assert ready.b.hooks.operations() == ["migrate begin -"]


@pytest.mark.usefixtures("home")
def test_a_stopped_switch_at_start_refuses_and_undoes_the_claim(ready: Pair) -> None:
    """Refused at `start`, when the VF is bound and claimed already: libvirt and vfmigrate undo both."""
    with ready.b.hooks.hold(GUEST, "start", BEFORE):
        migration = ready.a.begin_migration(GUEST, ready.b)
        ready.b.hooks.wait_for("start")
        ready.b.host.stop_vswitchd()
    outcome = migration.finish()
    ready.b.host.start_vswitchd()
    assert outcome.status != 0
    assert "ovs-vswitchd" in outcome.error
    assert ready.b.hooks.operations()[-2:] == ["stopped end -", "release end failed"]


def test_a_reserved_vf_is_not_given_to_another_guest(ready: Pair) -> None:
    go_home(ready)
    with ready.b.hooks.hold(GUEST, "prepare", BEFORE):
        migration = ready.a.begin_migration(GUEST, ready.b)
        ready.b.hooks.wait_for("prepare")
        (reserved,) = ready.b.product.claims()
        with pytest.raises(CommandError, match=f"reserved for guest '{GUEST}'"):
            ready.b.start_guest(Guest("other", [Vf(reserved, "52:54:00:00:00:09")], 2))
    assert migration.finish().status == 0
    assert list(ready.b.state().claims) == [reserved]


@pytest.mark.usefixtures("home")
def test_device_state_that_cannot_be_loaded_leaves_the_guest_on_the_source(ready: Pair) -> None:
    """QEMU on the destination fails at the end: the guest continues on the source, with its port and its claim."""
    ready.b.set_unmigratable(True)
    outcome = ready.a.migrate(GUEST, ready.b)
    assert outcome.status != 0
    assert ready.b.hooks.operations()[-2:] == ["stopped end -", "release end failed"]
    assert "stopped end -" not in ready.a.hooks.operations()


@pytest.mark.usefixtures("home")
def test_a_killed_virsh_leaves_the_guest_on_the_source(ready: Pair) -> None:
    """Virsh is killed while the destination waits for the guest: libvirt ends the guest on the destination."""
    with ready.b.hooks.hold(GUEST, "started", AFTER):
        migration = ready.a.begin_migration(GUEST, ready.b)
        ready.b.hooks.wait_for("started", AFTER)
        migration.kill()
    ready.b.hooks.wait_for("release", AFTER)


@pytest.mark.usefixtures("home")
def test_a_destination_without_the_daemon_refuses(ready: Pair) -> None:
    ready.b.product.stop()
    outcome = ready.a.migrate(GUEST, ready.b)
    assert outcome.status != 0
    assert "vfmigrated does not answer" in outcome.error
    assert "systemctl start vfmigrated" in outcome.error
    assert len(outcome.error.splitlines()) == 1


def test_a_plain_guest_needs_no_daemon(ready: Pair) -> None:
    for node in (ready.a, ready.b):
        node.product.stop()
    ready.a.start_guest(Guest(GUEST))
    assert ready.a.migrate(GUEST, ready.b).status == 0
