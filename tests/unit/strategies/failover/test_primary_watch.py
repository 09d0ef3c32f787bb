# SPDX-License-Identifier: GPL-2.0-or-later
"""The VF of a failover pair comes and goes: its port with it, the network told, and what happens when it stays away."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.guest_xml import ELSEWHERE, paired
from tests.fakes.rig import POOL, Rig
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.configuration import Config
from vfmigrate.converge.converger import Converger
from vfmigrate.domain import domain_xml
from vfmigrate.strategies.failover.primary_watch import ATTEMPTS, PrimaryWatch


class WatchRig(Rig):
    """The rig with a watch over failover pairs."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.replugged: list[Claim] = []
        self.watch = PrimaryWatch(
            self.services,
            self.announcer,
            replug=self.replugged.append,
        )

    def arrive_paired(self) -> Claim:
        xml = self.arrive(paired(ELSEWHERE))
        (claim,) = self.store.of_domain(domain_xml.read(xml).uuid)
        return claim

    def drive(self, claim: Claim, on: bool) -> None:
        self.memory.card.set_bus_master(str(claim.vf), on)
        self.watch.look()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[WatchRig]:
    with WatchRig(tmp_path) as rig:
        yield rig


def test_the_port_is_plugged_while_the_guest_uses_the_vf(rig: WatchRig) -> None:
    claim = rig.arrive_paired()
    rig.watch.look()
    assert rig.memory.ovs.ports == {}
    rig.drive(claim, True)
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [42]
    rig.drive(claim, False)
    assert rig.memory.ovs.ports == {}


def test_a_vf_is_announced_when_the_guest_has_taken_it(rig: WatchRig) -> None:
    claim = rig.arrive_paired()
    rig.announcer.warm(claim.domain)
    rig.announcer.announce(claim.domain)
    assert not rig.memory.ovs.sent.is_set()
    rig.drive(claim, True)
    assert rig.memory.ovs.sent.wait(10)
    _, _, frame = rig.memory.ovs.frames[0]
    assert frame[6:12].hex(":") == claim.mac


def test_a_vf_that_the_guest_released_is_not_announced(rig: WatchRig) -> None:
    claim = rig.arrive_paired()
    rig.drive(claim, True)
    rig.memory.card.set_bus_master(str(claim.vf), False)
    for thread in threading.enumerate():
        if thread.name == "announce":
            thread.join(30)
    assert rig.memory.ovs.frames == []


def test_a_port_left_by_an_earlier_daemon_is_removed(rig: WatchRig) -> None:
    """A new watch has seen nothing yet: the first look at a guest that lost its VF meanwhile mends the port."""
    claim = rig.arrive_paired()
    rig.drive(claim, True)
    rig.memory.card.set_bus_master(str(claim.vf), False)
    watch = PrimaryWatch(
        replace(rig.services, converger=Converger(rig.memory.host, Config({"data": POOL}), rig.store)),
        rig.announcer,
        replug=rig.replugged.append,
    )
    watch.look()
    assert rig.memory.ovs.ports == {}


def test_a_port_that_failed_is_plugged_at_a_later_look(rig: WatchRig) -> None:
    claim = rig.arrive_paired()
    rig.watch.look()
    rig.memory.ovs.down = True
    rig.drive(claim, True)
    rig.memory.ovs.down = False
    rig.watch.look()
    assert rig.memory.ovs.ports == {}  # a switch that is down is not asked at every look
    rig.now += 5
    rig.watch.look()
    assert len(rig.memory.ovs.ports) == 1


def test_a_vf_that_the_guest_does_not_take_is_plugged_in_again_up_to_five_times(
    rig: WatchRig, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = rig.arrive_paired()
    rig.watch.look()
    rig.now += 1000
    rig.watch.look()
    assert rig.replugged == []  # the migration may take as long as it likes
    rig.watch.expect(claim.domain)
    times: list[float] = []
    for _ in range(5000):
        rig.watch.look()
        if len(rig.replugged) > len(times):
            times.append(rig.now)
        rig.now += 1
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    assert len(times) == ATTEMPTS
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 2 * gaps[-2] - 1
    assert f"stays on its standby after {ATTEMPTS} attempts" in capsys.readouterr().err


def test_a_vf_that_the_guest_took_late_is_not_plugged_in_again(rig: WatchRig) -> None:
    claim = rig.arrive_paired()
    rig.watch.expect(claim.domain)
    rig.watch.look()
    rig.drive(claim, True)
    rig.now += 1000
    rig.watch.look()
    assert rig.replugged == []


def test_an_unplug_that_is_granted_late_is_followed_by_another_attempt(rig: WatchRig) -> None:
    """The guest took its VF just before it let go of it, as an earlier attempt had asked it to."""
    claim = rig.arrive_paired()
    rig.watch.expect(claim.domain)
    rig.watch.look()
    rig.now += 100
    rig.watch.look()
    assert len(rig.replugged) == 1
    rig.drive(claim, True)
    rig.now += 5
    rig.drive(claim, False)
    rig.now += 100
    rig.watch.look()
    assert len(rig.replugged) == 2
    rig.drive(claim, True)
    rig.now += 1000
    rig.watch.look()
    rig.drive(claim, False)  # much later: a migration, or a reboot
    rig.now += 1000
    rig.watch.look()
    assert len(rig.replugged) == 2


def test_a_vf_of_no_pair_is_not_watched(rig: WatchRig) -> None:
    claim = rig.arrive_paired()
    rig.store.put(replace(claim, strategy="vfio"))
    rig.drive(claim, True)
    assert rig.memory.ovs.ports == {}
