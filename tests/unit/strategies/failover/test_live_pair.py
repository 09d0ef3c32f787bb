# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair made in a running guest: whatever fails, the guest ends with a device that carries it, and we say which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.strategies.failover.test_definition import GUEST, MAC, WISH, marked
from vfmigrate.domain import domain_xml
from vfmigrate.errors import HostError, Refused
from vfmigrate.strategies.failover import definition, live_pair
from vfmigrate.strategies.failover.live_pair import Halves

HALVES = Halves(MAC, vf="the VF", primary="its half", standby="the standby")


class MemoryGuest:
    """A guest that only remembers; `failures` are told by step, `slow` are devices that it does not let go of."""

    def __init__(self, *failures: str, slow: tuple[str, ...] = (), knows_failover: bool = True) -> None:
        self.name = "g"
        self.patience = 30.0
        self.devices = [HALVES.vf]
        self.marks = "as before"
        self.failures = set(failures)
        self.slow = slow
        self.knows_failover = knows_failover
        self.done: list[str] = []

    def _act(self, step: str) -> None:
        self.done.append(step)
        if step in self.failures:
            raise HostError(f"{step} failed")

    def plug(self, device: str) -> None:
        self._act(f"plug {device}")
        self.devices.append(device)
        if device == HALVES.standby:
            self.marks = "stamped anew"

    def unplug(self, device: str) -> bool:
        self._act(f"unplug {device}")
        if device in self.slow:
            return False
        self.devices.remove(device)
        return True

    def settle(self) -> None:
        assert HALVES.standby in self.devices

    def takes_vf(self, mac: str) -> bool:
        assert mac == MAC
        self._act("take the VF")
        return self.knows_failover

    def vf(self, mac: str) -> str:
        assert mac == MAC
        self._act("look")
        return "half" if HALVES.primary in self.devices else "lone" if HALVES.vf in self.devices else ""

    def restore_marks(self) -> None:
        self._act("restore marks")
        self.marks = "as before"


def test_the_standby_is_plugged_in_before_the_vf_is_exchanged() -> None:
    guest = MemoryGuest()
    live_pair.make(guest, HALVES)
    assert guest.done == ["plug the standby", "unplug the VF", "plug its half", "take the VF"]
    assert guest.devices == [HALVES.standby, HALVES.primary]


def test_a_standby_that_cannot_be_plugged_in_changes_nothing() -> None:
    guest = MemoryGuest("plug the standby")
    with pytest.raises(HostError, match="plug the standby failed"):
        live_pair.make(guest, HALVES)
    assert guest.done == ["plug the standby"]


@pytest.mark.parametrize(
    ("guest", "told"),
    [
        (
            MemoryGuest(knows_failover=False),
            "may not support failover; it has its VF as before; to have the pair",
        ),
        (MemoryGuest("plug its half"), "plug its half failed; it has its VF as before"),
        (MemoryGuest("unplug the VF"), "unplug the VF failed; it has its VF as before"),
        (MemoryGuest(slow=("the VF",)), "did not release its VF within 30 s; it has its VF as before"),
    ],
    ids=["no failover", "refused", "busy", "slow"],
)
def test_a_failure_restores_the_vf_and_its_metadata(guest: MemoryGuest, told: str) -> None:
    with pytest.raises(HostError, match=told):
        live_pair.make(guest, HALVES)
    assert (guest.devices, guest.marks) == ([HALVES.vf], "as before")


@pytest.mark.parametrize(
    ("guest", "told", "devices"),
    [
        (
            MemoryGuest(slow=("the VF", "the standby")),
            "its VF as before, and keeps the standby until it releases",
            [HALVES.vf, HALVES.standby],
        ),
        (
            MemoryGuest("plug its half", "plug the VF"),
            "it is on its standby, and its VF could not be plugged in again: plug the VF failed",
            [HALVES.standby],
        ),
        (
            MemoryGuest(knows_failover=False, slow=("its half",)),
            "it keeps the pair until it releases the VF",
            [HALVES.standby, HALVES.primary],
        ),
    ],
    ids=["keeps both", "no VF", "keeps the half"],
)
def test_a_device_that_cannot_be_restored_is_reported(
    guest: MemoryGuest, told: str, devices: list[str]
) -> None:
    with pytest.raises(HostError, match=told):
        live_pair.make(guest, HALVES)
    assert guest.devices == devices


STEPS = [
    *(
        f"{verb} {device}"
        for verb in ("plug", "unplug")
        for device in (HALVES.vf, HALVES.primary, HALVES.standby)
    ),
    "take the VF",
    "look",
    "restore marks",
]


@given(
    st.lists(st.sampled_from(STEPS)),
    st.lists(st.sampled_from([HALVES.vf, HALVES.primary, HALVES.standby])),
    st.booleans(),
)
def test_no_failure_leaves_the_guest_without_a_device(
    failures: list[str], slow: list[str], knows_failover: bool
) -> None:
    guest = MemoryGuest(*failures, slow=tuple(slow), knows_failover=knows_failover)
    try:
        live_pair.make(guest, HALVES)
    except HostError:
        assert guest.devices
        assert HALVES.standby in guest.devices or guest.devices == [HALVES.vf]
    else:
        assert guest.devices == [HALVES.standby, HALVES.primary]


def test_live_devices_equal_those_of_the_definition() -> None:
    halves = definition.live_halves(GUEST, WISH)
    assert halves is not None
    enabled = definition.enable(GUEST, WISH)
    assert halves.mac == MAC
    assert halves.vf in GUEST
    assert halves.primary in enabled
    assert halves.standby in enabled
    assert "<teaming type='persistent'/>" in halves.standby
    assert "<teaming type='transient'" in halves.primary
    assert definition.live_halves(enabled, WISH) is None


def test_live_overrides_a_strategy_that_the_daemon_wrote() -> None:
    stamped = marked("pool='data' vlan='42' strategy='vfio'")
    with pytest.raises(Refused, match="the strategy 'vfio'"):
        definition.enable(stamped, WISH)
    halves = definition.live_halves(stamped, WISH)
    assert halves is not None
    assert domain_xml.read(stamped).interfaces[0].mark is not None


def test_a_running_guest_in_another_vlan_is_refused() -> None:
    with pytest.raises(Refused, match=r"VLAN 43 and its standby .* in VLAN 42"):
        definition.live_halves(marked("pool='data' vlan='43' strategy='vfio'"), WISH)
