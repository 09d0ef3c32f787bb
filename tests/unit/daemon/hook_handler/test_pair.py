# SPDX-License-Identifier: GPL-2.0-or-later
"""Failover pairs on a host in memory."""

from __future__ import annotations

import pytest

from tests.fakes.card import Card
from tests.fakes.guest_xml import ELSEWHERE, STANDBY, guest, paired
from tests.fakes.hardware import Hardware
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF, MakeRig, Rig
from vfmigrate.errors import Refused


def test_the_port_of_a_pair_is_plugged_only_while_the_guest_uses_the_vf(rig: Rig) -> None:
    xml = paired(rig.memory.vfs[0])
    rig.run(xml)
    assert rig.memory.ovs.ports == {}
    rig.memory.card.set_bus_master(str(rig.memory.vfs[0]), True)
    rig.converger.converge(rig.memory.vfs[0])
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [42]
    assert rig.converger.survey(PF) == rig.memory.vfs[1:]
    rig.memory.card.set_bus_master(str(rig.memory.vfs[0]), False)
    rig.converger.converge(rig.memory.vfs[0])
    assert rig.memory.ovs.ports == {}


def test_a_vf_without_a_vlan_gets_the_vlan_of_its_standby(rig: Rig) -> None:
    rig.arrive(paired(ELSEWHERE, marks="pool='data'"))
    assert [claim.vlan for claim in rig.store.all()] == [42]


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        (
            paired(ELSEWHERE, STANDBY.replace("br-data", "br-gone")),
            "no bridge 'br-gone' .*ovs-vsctl add-br br-gone",
        ),
        (
            paired(
                ELSEWHERE, STANDBY.replace("<virtualport type='openvswitch'/>", "").replace("br-data", "br0")
            ),
            "no bridge 'br0' on this host.* ip link add br0 type bridge",
        ),
        (paired(ELSEWHERE, STANDBY.replace("'42'", "'43'")), "VLAN 42 and its standby 'ua-x' in VLAN 43"),
        (paired(ELSEWHERE, STANDBY.replace("ua-x", "ua-y")), "has no standby"),
        (paired(ELSEWHERE, STANDBY.replace("virtio", "e1000")), "a standby of model 'e1000'"),
        (paired(ELSEWHERE, STANDBY.replace("01:00'", "01:09'")), "a standby with another MAC"),
        (
            guest(1, ELSEWHERE, marks="pool='data' strategy='replug'"),
            "has strategy replug and is still plugged in",
        ),
        (
            guest(1, ELSEWHERE, marks="pool='data' strategy='failover'"),
            "no standby; run: vfmigrate failover enable guest1",
        ),
    ],
)
def test_a_vf_that_its_strategy_cannot_migrate_is_refused_at_migrate(rig: Rig, xml: str, told: str) -> None:
    with pytest.raises(Refused, match=told):
        rig.call("migrate", xml)
    assert rig.store.all() == []


def test_a_pair_in_different_vlans_is_refused_at_start(rig: Rig) -> None:
    with pytest.raises(Refused, match="in VLAN 42 and its standby 'ua-x' in no VLAN"):
        rig.call("prepare", paired(rig.memory.vfs[0], STANDBY.replace("<vlan><tag id='42'/></vlan>", "")))
    assert rig.store.all() == []


def test_a_failover_vf_needs_no_migratable_flag(make_rig: MakeRig) -> None:
    rig = make_rig(MemoryHost(card=Card(("0000:01:00.0",), hardware=Hardware(migration=False))))
    rig.arrive(paired(ELSEWHERE))
    (claim,) = rig.store.all()
    assert claim.strategy == "failover"
