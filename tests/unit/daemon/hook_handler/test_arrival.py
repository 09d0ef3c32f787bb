# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest that arrives, starts and leaves gets on a host in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.rig import PF, POOL, MakeRig, Rig
from vfmigrate.claims import claim_store
from vfmigrate.config.configuration import Config
from vfmigrate.domain import domain_xml
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress


def test_a_guest_that_left_leaves_no_claim_and_no_port(rig: Rig) -> None:
    for vf in rig.memory.vfs:
        rig.converger.converge(vf)
    before = rig.memory.host.survey(PF)
    rewritten = rig.arrive(guest(1, ELSEWHERE))
    (interface,) = domain_xml.read(rewritten).interfaces
    assert interface.address == rig.memory.vfs[-1]
    (claim,) = rig.store.all()
    assert (claim.state, claim.expires, claim.incoming, claim.vlan) == (claim_store.PLUGGED, None, True, 42)
    (port,) = rig.memory.ovs.ports.values()
    assert port.tag == 42
    assert rig.started == [claim.domain]
    rig.leave(rewritten)
    assert rig.store.all() == []
    assert rig.memory.host.survey(PF) == before


def test_two_vfs_keep_their_own_vlans(rig: Rig) -> None:
    xml = guest(1, ELSEWHERE, PciAddress(0, 0x81, 0, 3)).replace("vlan='42'", "vlan='43'", 1)
    rig.arrive(xml)
    assert {claim.mac: claim.vlan for claim in rig.store.all()} == {
        "52:54:00:00:01:00": 43,
        "52:54:00:00:01:01": 42,
    }
    assert len({claim.vf for claim in rig.store.all()}) == 2


def test_a_restored_guest_gets_the_vf_that_it_had_unless_it_is_taken(rig: Rig) -> None:
    saved = guest(1, rig.memory.vfs[1])
    assert rig.call("restore", saved) == saved
    rig.leave(saved, "failed")
    rig.run(guest(2, rig.memory.vfs[1]))
    again = rig.call("restore", saved)
    assert again is not None
    assert domain_xml.read(again).interfaces[0].address == rig.memory.vfs[-1]


def test_metadata_that_cannot_be_read_keeps_no_vf(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[0])
    rig.run(xml)
    rig.leave(xml.replace("vlan='42'", "vlan='many'"), "shutdown")
    assert rig.store.all() == []


def test_a_guest_that_never_arrives_has_a_reservation_only(rig: Rig) -> None:
    rig.call("migrate", guest(1, ELSEWHERE))
    (claim,) = rig.store.all()
    assert (claim.state, claim.expires) == (claim_store.RESERVED, 1120.0)
    assert rig.memory.ovs.ports == {}


def test_a_second_attempt_replaces_the_first(rig: Rig) -> None:
    rig.call("migrate", guest(1, ELSEWHERE))
    rig.call("migrate", guest(1, ELSEWHERE))
    assert len(rig.store.all()) == 1


def test_the_xml_of_a_plain_guest_is_not_changed(rig: Rig) -> None:
    unmarked = guest(1, ELSEWHERE).replace("urn:vfmigrate:domain:1", "urn:other")
    assert rig.call("migrate", unmarked) is None
    assert rig.store.all() == []


def test_a_vf_of_no_pool_is_not_claimed(make_rig: MakeRig) -> None:
    rig = make_rig(config=Config({"data": replace(POOL, pfs=(PciAddress(0, 2, 0, 0),))}))
    xml = guest(1, rig.memory.vfs[0], marks="vlan='42'")
    rig.run(xml)
    rig.leave(xml)
    assert rig.store.all() == []
    assert rig.memory.host.observe(rig.memory.vfs[0]).migratable is False


def test_cleaning_up_goes_on_when_open_vswitch_is_down(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[0])
    rig.run(xml)
    rig.memory.ovs.down = True
    rig.leave(xml)
    assert rig.store.all() == []
    rig.memory.ovs.down = False
    rig.converger.converge(rig.memory.vfs[0])
    assert rig.memory.ovs.ports == {}


def test_a_release_forgets_the_guest_whatever_its_xml_says(rig: Rig) -> None:
    xml = guest(1, rig.memory.vfs[0])
    rig.run(xml)
    unresolved = guest(1)
    rig.leave(unresolved)
    assert rig.store.all() == []


def test_a_plain_hostdev_keeps_mac_and_vlan_of_its_mark(rig: Rig) -> None:
    """The mark finds the device by its address on the source, which `migrate` replaces in the device only."""
    mac = "52:54:00:00:01:00"
    source = "<address domain='0x0000' bus='0x81' slot='0x00' function='0x2'/>"
    hostdev = f"<hostdev mode='subsystem' type='pci' managed='yes'><source>{source}</source></hostdev>"
    mark = f"<v:vf mac='{mac}' address='{ELSEWHERE}' pool='data' vlan='43'/>"
    xml = guest(1, extra=hostdev).replace("domain:1'>", f"domain:1'>{mark}")
    rig.arrive(xml)
    (claim,) = rig.store.all()
    assert (claim.mac, claim.set_mac, claim.vlan) == (mac, True, 43)
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [43]


def test_a_pool_interface_needs_a_free_vf_and_is_claimed_when_resolved(rig: Rig) -> None:
    mac = "52:54:00:00:01:00"
    network = f"<interface type='network'><mac address='{mac}'/><source network='data'/></interface>"
    xml = guest(1, extra=network).replace(
        "<v:vfs xmlns:v='urn:vfmigrate:domain:1'>",
        (f"<v:vfs xmlns:v='urn:vfmigrate:domain:1'><v:vf mac='{mac}' pool='data' vlan='43'/>"),
    )
    assert rig.call("migrate", xml) is None
    assert rig.store.all() == []
    resolved = guest(1, rig.memory.vfs[0], marks="pool='data' vlan='43'")
    rig.run(resolved)
    assert [(claim.vf, claim.vlan) for claim in rig.store.all()] == [(rig.memory.vfs[0], 43)]
    for number, vf in enumerate(rig.memory.vfs[1:], 2):
        rig.run(guest(number, vf))
    with pytest.raises(Refused, match="no free VF"):
        rig.call("migrate", xml.replace("guest1", "guest9").replace("-000000000001", "-000000000009"))
