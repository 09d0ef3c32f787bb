# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that comes back while its claims of an earlier run are still there: its end was not reported.

The daemon was away at `release`, and reconciling leaves claims of a domain alone that runs again.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.guest_xml import ELSEWHERE, guest, paired
from tests.fakes.rig import Rig
from vfmigrate.claims import claim_store
from vfmigrate.errors import Refused

MAC = "52:54:00:00:01:00"
DOMAIN = "00000000-0000-4000-8000-000000000001"


def iface_ids(rig: Rig) -> list[str]:
    return [port.external_ids["iface-id"] for port in rig.memory.ovs.ports.values()]


@pytest.mark.parametrize("operation", ["prepare", "start"])
def test_a_start_ends_the_claim_of_an_earlier_run_with_its_mac(rig: Rig, operation: str) -> None:
    before, after = rig.memory.vfs[:2]
    rig.run(guest(1, before))
    rig.memory.sysfs.bind(before, "mlx5_vfio_pci")  # as libvirt leaves it when it is killed
    rig.call(operation, guest(1, after))
    (claim,) = rig.store.all()
    assert (claim.vf, claim.mac) == (after, MAC)
    assert rig.memory.sysfs.driver(before) is None
    rig.call("start", guest(1, after))
    assert len(iface_ids(rig)) == 1


def test_the_older_port_is_gone_before_the_new_one_comes(rig: Rig) -> None:
    before, after = rig.memory.vfs[:2]
    rig.run(guest(1, before))
    seen: list[list[str]] = []
    plug = rig.memory.ovs.plug

    def watched(*words: Any, **named: Any) -> object:
        seen.append(iface_ids(rig))
        return plug(*words, **named)

    rig.memory.ovs.plug = watched  # type: ignore[method-assign,assignment]  # the moment in between
    rig.run(guest(1, after))
    assert seen == [[]]


def test_a_vf_that_the_guest_has_no_more_is_given_back(rig: Rig) -> None:
    rig.run(guest(1, *rig.memory.vfs[:2]))
    rig.run(guest(1, rig.memory.vfs[0]))
    assert [claim.vf for claim in rig.store.all()] == [rig.memory.vfs[0]]
    assert len(iface_ids(rig)) == 1


def test_other_guests_and_vfs_that_are_still_to_be_plugged_in_keep_their_claims(rig: Rig) -> None:
    other, reserved, lent, own = rig.memory.vfs
    rig.run(guest(2, other))
    (others,) = rig.store.all()
    for vf, mac, slot in ((reserved, "52:54:00:00:01:07", None), (lent, "52:54:00:00:01:08", "0000:05:00.0")):
        expires = rig.now + 100 if slot is None else None
        rig.store.put(
            claim_store.Claim(
                vf, "data", DOMAIN, "guest1", claim_store.RESERVED, 0.0, expires=expires, mac=mac, slot=slot
            )
        )
    rig.run(guest(1, own))
    assert [claim.vf for claim in rig.store.all()] == sorted((other, reserved, lent, own))
    assert rig.store.get(other) == others


def test_an_arrival_takes_the_only_vf_back_that_an_earlier_run_had(rig: Rig) -> None:
    for number, vf in enumerate(rig.memory.vfs[1:], 2):
        rig.run(guest(number, vf))
    rig.run(guest(1, rig.memory.vfs[0]))
    (old,) = rig.store.of_domain(DOMAIN)
    rig.arrive(guest(1, ELSEWHERE))
    (claim,) = rig.store.of_domain(DOMAIN)
    assert claim.vf == rig.memory.vfs[0]
    assert claim.id != old.id
    assert [port.owner for port in rig.memory.ovs.ports.values()].count(claim.id) == 1
    assert old.id not in [port.owner for port in rig.memory.ovs.ports.values()]


def test_a_guest_that_runs_here_keeps_what_it_has_where_somebody_migrates_it_to_its_own_host(
    rig: Rig,
) -> None:
    """Libvirt calls the hook before it refuses that."""
    vf = rig.memory.vfs[0]
    rig.run(guest(1, vf))
    rig.memory.sysfs.bind(vf, "mlx5_vfio_pci")
    rig.memory.sysfs.open_groups.add(str(vf))
    (before,) = rig.store.all()
    rig.call("migrate", guest(1, ELSEWHERE))
    assert rig.store.get(vf) == before
    assert [port.owner for port in rig.memory.ovs.ports.values()] == [before.id]


def test_a_pair_keeps_the_vf_that_its_guest_is_without_for_a_time(rig: Rig) -> None:
    vf = rig.memory.vfs[0]
    rig.run(paired(vf))
    (before,) = rig.store.all()
    rig.call("migrate", paired(ELSEWHERE))
    assert rig.store.get(vf) == before


def test_all_vfs_that_a_start_names_are_claimed_or_none(rig: Rig) -> None:
    free, taken = rig.memory.vfs[:2]
    rig.run(guest(2, taken))
    with pytest.raises(Refused, match=f"VF {taken} cannot be given to guest 'guest1'"):
        rig.call("prepare", guest(1, free, taken))
    assert rig.store.of_domain(DOMAIN) == []
