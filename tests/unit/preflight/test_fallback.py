# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VFs fall back to replug, and which guest must not."""

from __future__ import annotations

import pytest

from tests.unit.preflight.snapshots import MAC, Change, good, guest, pf, pool, way
from vfmigrate.errors import Refused
from vfmigrate.model.libvirt_facts import NameConflict
from vfmigrate.preflight import fallback
from vfmigrate.rules.findings import ERROR

BONDED = guest(other_interfaces=1)
#: what keeps device state from travelling
DIFFERENCES: dict[str, Change] = {
    "firmware": pf("destination", firmware="28.39.1"),
    "PSID": pf("destination", psid="MT_2"),
    "no variant driver": pf("destination", variant_driver="vfio-pci"),
}


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_vf_whose_state_cannot_travel_is_replugged(difference: str) -> None:
    planned = fallback.plan(BONDED(DIFFERENCES[difference](good())), allow_outage=False)
    assert planned.macs == (MAC,)
    assert planned.reasons
    assert [each for each in planned.results if each.severity == ERROR] == []


def test_nothing_falls_back_between_equal_hosts() -> None:
    planned = fallback.plan(BONDED(good()), allow_outage=False)
    assert (planned.macs, planned.reasons) == ((), ())


def test_nothing_falls_back_for_what_replug_would_not_mend() -> None:
    planned = fallback.plan(BONDED(pool("destination", bridge_exists=False)(good())), allow_outage=False)
    assert planned.macs == ()
    assert [each.check for each in planned.results if each.severity == ERROR] == ["bridge"]


def test_other_errors_remain_errors() -> None:
    snapshot = way(name_conflict=NameConflict("guest 'g'"))(DIFFERENCES["firmware"](good()))
    planned = fallback.plan(BONDED(snapshot), allow_outage=False)
    assert planned.macs == (MAC,)
    assert [each.check for each in planned.results if each.severity == ERROR] == ["name"]


def test_a_guest_that_would_be_without_network_is_refused_unless_that_is_allowed() -> None:
    snapshot = DIFFERENCES["firmware"](good())
    with pytest.raises(Refused, match="guest 'g' has no interface besides its VFs"):
        fallback.plan(snapshot, allow_outage=False)
    assert fallback.plan(snapshot, allow_outage=True).macs == (MAC,)


def test_a_guest_on_a_port_from_which_nothing_can_be_unplugged_is_refused() -> None:
    snapshot = guest(other_interfaces=1, obstacles={1: ("pcie-root", "move it")})(DIFFERENCES["PSID"](good()))
    planned = fallback.plan(snapshot, allow_outage=False)
    assert any("cannot be unplugged" in each.text for each in planned.results if each.severity == ERROR)
