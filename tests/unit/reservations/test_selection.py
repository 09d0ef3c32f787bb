# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VF a guest gets: what was seen of the host, and the claims at the moment of the decision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Callable, Optional

import pytest

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.rig import POOL, MakeRig, Rig
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.configuration import Config
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import PortSettings, SwitchPort

OTHERS = "22222222-2222-4222-8222-222222222222"


def claim(rig: Rig, vf: PciAddress, **changes: object) -> Claim:
    """Another guest's."""
    one = Claim(vf, "data", OTHERS, "other", claim_store.RESERVED, 0.0, incoming=True)
    return rig.store.put(replace(one, **changes))  # type: ignore[arg-type]  # fields by name


def on_each_walk(rig: Rig, act: Callable[[int], None]) -> None:
    """Has something happen each time after the processes were walked through, with the number of the walk."""
    held, walks = rig.memory.sysfs.held, [0]

    def walk(vfs: Iterable[PciAddress]) -> dict[PciAddress, int]:
        found = held(vfs)
        walks[0] += 1
        act(walks[0])
        return found

    rig.memory.sysfs.held = walk  # type: ignore[method-assign]  # the moment in between


def bind_all(rig: Rig, enabled: bool = True) -> None:
    """Bind all VFs to VFIO; if `enabled`, only a look at the processes shows that they are free."""
    for vf in rig.memory.vfs:
        rig.memory.sysfs.bind(vf, "mlx5_vfio_pci")
    if enabled:
        rig.memory.sysfs.may_be_open = lambda vf: True  # type: ignore[method-assign]  # noqa: ARG005


def got(rig: Rig, number: int = 1) -> PciAddress:
    """The VF that a guest gets which arrives now."""
    rig.call("migrate", guest(number, ELSEWHERE))
    (own,) = rig.store.of_domain(f"00000000-0000-4000-8000-{number:012d}")
    return own.vf


@pytest.mark.parametrize("enabled", [True, False])
def test_one_walk_through_the_processes_whatever_the_number_of_vfs(rig: Rig, enabled: bool) -> None:
    bind_all(rig, enabled)
    for vf in rig.memory.vfs:  # `migratable` as it must be: converging itself has no reason to look
        port = rig.memory.devlink.vf_port(rig.memory.pf, rig.memory.sysfs.vf_index(vf))
        assert port is not None
        rig.memory.devlink.set_port_function(rig.memory.pf, port.index, migratable=True)
    walks: list[int] = []
    on_each_walk(rig, walks.append)
    got(rig)
    assert walks == ([1] if enabled else [])


def test_a_vf_that_was_claimed_since_the_look_is_not_given_away(rig: Rig) -> None:
    bind_all(rig)

    def take(walk: int) -> None:
        if walk == 1:
            claim(rig, rig.memory.vfs[-1])

    on_each_walk(rig, take)
    assert got(rig) == rig.memory.vfs[-2]


def test_a_vf_that_was_given_back_since_the_look_is_looked_at_first(rig: Rig) -> None:
    """Its QEMU may be ending still."""
    bind_all(rig)
    others = [claim(rig, vf) for vf in rig.memory.vfs[1:]]
    free = rig.memory.vfs[0]
    walks = []

    def act(walk: int) -> None:
        walks.append(walk)
        if walk == 1:
            claim(rig, free)
            rig.store.drop(others[0])
            rig.memory.sysfs.open_groups.add(str(others[0].vf))
        elif walk == 2:
            rig.store.drop(others[1])

    on_each_walk(rig, act)
    # at the second look a process has the VF given back first, at the third the other one is seen to be free
    assert got(rig) == others[1].vf
    assert walks[:3] == [1, 2, 3]


def test_looking_again_has_an_end(rig: Rig) -> None:
    bind_all(rig)
    other = {vf: claim(rig, vf) for vf in rig.memory.vfs[1:]}

    def trade(_walk: int) -> None:
        """Another VF is free each time, and never the one that was looked at."""
        for vf in rig.memory.vfs:
            if vf not in other:
                other[vf] = claim(rig, vf)
                break
        given = next(vf for vf in rig.memory.vfs if vf != list(other)[-1])
        rig.store.drop(other.pop(given))

    on_each_walk(rig, trade)
    with pytest.raises(Refused, match="perhaps in use: it was released only a moment ago"):
        got(rig)


@pytest.mark.parametrize("held", [False, True])
def test_an_expired_claim_is_free_before_a_reconcile_drops_it(
    rig: Rig, held: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless a process has the VF all the same: its guest was just starting."""
    bind_all(rig)
    for vf in rig.memory.vfs[1:]:
        claim(rig, vf)
    late = claim(rig, rig.memory.vfs[0], state=claim_store.PREPARED, expires=rig.now + 10)
    rig.now += 10
    with pytest.raises(Refused, match="reserved for guest 'other'"):
        got(rig)
    rig.now += 1
    if held:
        rig.memory.sysfs.open_groups.add(str(late.vf))
        with pytest.raises(Refused, match=f"{late.vf} held by process 4711"):
            got(rig)
        assert rig.store.get(late.vf) == late
    else:
        assert got(rig) == late.vf
        assert (
            f"expired: released the claim of guest 'other' on {late.vf}: it expired"
            in capsys.readouterr().err
        )


def test_settings_of_an_expired_claim_are_removed_when_another_guest_gets_the_vf(rig: Rig) -> None:
    vf = rig.memory.vfs[0]
    for each in rig.memory.vfs[1:]:
        claim(rig, each)
    mac = "52:54:00:00:00:09"
    late = claim(rig, vf, state=claim_store.PLUGGED, expires=rig.now + 10, mac=mac, set_mac=True)
    rig.converger.converge(vf)
    (port,) = rig.memory.ovs.ports.values()
    assert port.owner == late.id
    assert rig.memory.host.observe(vf).hw_addr == mac
    rig.now += 11
    rewritten = rig.arrive(guest(1, ELSEWHERE))
    assert f"function='0x{vf.function:x}'" in rewritten
    (own,) = rig.store.of_domain("00000000-0000-4000-8000-000000000001")
    (port,) = rig.memory.ovs.ports.values()
    assert port.owner == own.id
    assert rig.memory.host.observe(vf).hw_addr == "00:00:00:00:00:00"  # libvirt sets the new guest's


def test_a_late_guest_is_refused_where_another_has_its_vf(rig: Rig) -> None:
    vf = rig.memory.vfs[0]
    xml = guest(1, vf)
    rig.call("prepare", xml)
    rig.now += rig.config.claim_timeout + 1
    rig.run(guest(2, vf))
    with pytest.raises(
        Refused, match=f"VF {vf} cannot be given to guest 'guest1': it is held by guest 'guest2'"
    ):
        rig.call("start", xml)


def test_a_late_guest_keeps_its_vf_where_no_other_has_it(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[0])
    rig.call("prepare", xml)
    rig.now += rig.config.claim_timeout + 1
    rig.call("start", xml)
    (own,) = rig.store.all()
    assert (own.state, own.expires) == (claim_store.PLUGGED, None)


@pytest.mark.parametrize("kept", ["ready", "host"])
def test_a_vf_in_a_container_is_not_given_away(make_rig: MakeRig, kept: str) -> None:
    rig = make_rig(config=Config({"data": replace(POOL, free_vfs=kept)}))
    for vf in rig.memory.vfs:
        rig.memory.sysfs.bind(vf, rig.memory.card.hardware.host_driver)
        rig.memory.sysfs.in_containers.add(str(vf))
    with pytest.raises(Refused, match="is not in this network namespace"):
        rig.call("prepare", guest(1, rig.memory.vfs[0]))
    with pytest.raises(Refused, match=r"no free VF on this host: .*is not in this network namespace"):
        got(rig)
    for vf in rig.memory.vfs:
        assert rig.converger.converge(vf) == []  # nor does a reconcile take it from the container
        assert rig.memory.sysfs.driver(vf) == rig.memory.card.hardware.host_driver


def test_a_guest_whose_start_takes_longer_than_the_claim_timeout_keeps_its_vf(rig: Rig) -> None:
    """Its QEMU is not there yet, so nothing else shows that the VF is in use."""
    vf = rig.memory.vfs[0]
    for each in rig.memory.vfs[1:]:
        claim(rig, each)
    xml = guest(1, vf)
    rig.call("prepare", xml)
    plug, refused = rig.memory.ovs.plug, []

    def plug_slowly(
        bridge: str,
        netdev: str,
        owner: str,
        settings: PortSettings,
        *,
        meanwhile: Optional[Callable[[], object]] = None,
    ) -> SwitchPort:
        rig.now += rig.config.claim_timeout + 1
        with pytest.raises(Refused, match="held by guest 'guest1'") as refusal:
            got(rig, 2)
        refused.append(refusal.value)
        return plug(bridge, netdev, owner, settings, meanwhile=meanwhile)

    rig.memory.ovs.plug = plug_slowly  # type: ignore[method-assign]  # Open vSwitch hangs
    rig.call("start", xml)
    assert len(refused) == 1
    (own,) = rig.store.of_domain("00000000-0000-4000-8000-000000000001")
    assert (own.vf, own.state, own.expires) == (vf, claim_store.PLUGGED, None)
