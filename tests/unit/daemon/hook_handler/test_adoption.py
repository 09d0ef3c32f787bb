# SPDX-License-Identifier: GPL-2.0-or-later
"""What becomes of a guest that runs already when libvirt or vfmigrate starts."""

from __future__ import annotations

from tests.fakes.guest_xml import guest
from tests.fakes.rig import Rig
from vfmigrate.claims import claim_store


def test_reconnect_adopts_a_running_guest(rig: Rig) -> None:
    assert rig.call("reconnect", guest(1, rig.memory.vfs[2])) is None
    (claim,) = rig.store.all()
    assert (claim.vf, claim.state, claim.expires, claim.incoming) == (
        rig.memory.vfs[2],
        claim_store.PLUGGED,
        None,
        False,
    )


def test_adopting_keeps_the_port_of_a_lost_claim(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[2])
    rig.run(xml)
    (before,) = rig.store.all()
    rig.store.drop(before)
    rig.call("reconnect", xml)
    (after,) = rig.store.all()
    assert after.id == before.id
    assert [port.owner for port in rig.memory.ovs.ports.values()] == [before.id]


def test_adopting_does_not_take_another_guests_port(rig: Rig) -> None:
    rig.run(guest(1, rig.memory.vfs[2]))
    (before,) = rig.store.all()
    rig.store.drop(before)
    rig.call("reconnect", guest(2, rig.memory.vfs[2]))
    (after,) = rig.store.all()
    assert after.id != before.id


def test_reconnect_succeeds_when_adoption_fails(rig: Rig) -> None:
    rig.memory.ovs.down = True
    assert rig.call("reconnect", guest(1, rig.memory.vfs[2])) is None
    assert rig.call("reconnect", guest(2, rig.memory.vfs[2])) is None


def test_a_running_guest_gets_the_vf_for_which_another_came_too_late(rig: Rig) -> None:
    rig.call("prepare", guest(2, rig.memory.vfs[2]))
    rig.now += rig.config.claim_timeout + 1
    rig.call("reconnect", guest(1, rig.memory.vfs[2]))
    (claim,) = rig.store.all()
    assert (claim.domain_name, claim.expires) == ("guest1", None)


def test_a_running_guest_whose_own_claim_expired_keeps_its_port(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[2])
    rig.run(xml)
    (before,) = rig.store.all()
    rig.store.change(before, expires=rig.now + 1)
    rig.now += 2
    rig.call("reconnect", xml)
    (after,) = rig.store.all()
    assert (after.id, after.expires) == (before.id, None)
    assert [port.owner for port in rig.memory.ovs.ports.values()] == [before.id]
