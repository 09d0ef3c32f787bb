# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VF and which VLAN an interface gets by its mark, and by the address that a manager has put into the XML."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.rig import POOL, MakeRig, Rig
from tests.unit.daemon.sync_rig import SyncRig
from vfmigrate.config.configuration import Config
from vfmigrate.domain import domain_xml
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress

MAC = "52:54:00:00:01:00"


def hostdev(vf: PciAddress) -> str:
    source = f"<address domain='0' bus='{vf.bus:#x}' slot='{vf.slot:#x}' function='{vf.function:#x}'/>"
    return f"<hostdev mode='subsystem' type='pci' managed='yes'><source>{source}</source></hostdev>"


def plain(vf: PciAddress, *marks: str) -> str:
    """A guest with a plain <hostdev> of this VF."""
    written = "".join(f"<v:vf {mark}/>" for mark in marks)
    return guest(1, extra=hostdev(vf)).replace("domain:1'>", f"domain:1'>{written}")


def twins(*vfs: PciAddress, addressed: bool = True) -> str:
    """A guest whose interfaces share a MAC, in VLANs 42, 43, ... by their marks."""
    xml = guest(1, *vfs)
    for index, vf in enumerate(vfs):
        old = f"<v:vf mac='52:54:00:00:01:{index:02x}' pool='data' vlan='42'/>"
        named = f"address='{vf}' " if addressed else ""
        xml = xml.replace(old, f"<v:vf mac='{MAC}' {named}pool='data' vlan='{42 + index}'/>")
        xml = xml.replace(f"52:54:00:00:01:{index:02x}", MAC)
    return xml


def vlans(rig: Rig) -> dict[PciAddress, object]:
    return {claim.vf: claim.vlan for claim in rig.store.all()}


# -- a mark that no device has


def test_a_plain_hostdev_that_was_edited_keeps_mac_and_vlan(rig: Rig) -> None:
    rig.run(plain(rig.memory.vfs[2], f"mac='{MAC}' address='{rig.memory.vfs[1]}' pool='data' vlan='42'"))
    (claim,) = rig.store.all()
    assert (claim.vf, claim.mac, claim.set_mac, claim.vlan) == (rig.memory.vfs[2], MAC, True, 42)
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [42]


def test_a_guest_whose_marks_could_belong_to_either_vf_does_not_start(rig: Rig) -> None:
    marks = [
        f"mac='52:54:00:00:01:0{n}' address='0000:01:1f.{n}' pool='data' vlan='4{n + 2}'" for n in (0, 1)
    ]
    xml = plain(rig.memory.vfs[2], *marks).replace("</devices>", hostdev(rig.memory.vfs[1]) + "</devices>")
    for operation in ("migrate", "restore", "prepare", "start"):
        with pytest.raises(Refused, match="a mark that no VF of the guest has"):
            rig.call(operation, xml)
    assert rig.store.all() == []


def test_a_vf_whose_mark_has_another_mac_does_not_start_in_a_trunk(rig: Rig) -> None:
    with pytest.raises(Refused, match="has nothing for the VF with MAC 52:54:00:00:01:00"):
        rig.call(
            "prepare", guest(1, rig.memory.vfs[0]).replace(f"vf mac='{MAC}'", "vf mac='52:54:00:00:01:99'")
        )
    assert rig.store.all() == []


def test_a_plugged_in_vf_whose_mark_is_unclear_gets_no_port(sync_rig: SyncRig) -> None:
    """Nobody can refuse a hot-plug; a VF without its mark would reach all VLANs of the pool."""
    uuid = sync_rig.start(guest(1))
    marks = [f"mac='52:54:00:00:01:0{n}' pool='data' vlan='4{n + 2}'" for n in (0, 1)]
    sync_rig.change(plain(sync_rig.memory.vfs[2], *marks))
    assert sync_rig.domain_sync.follow(uuid) == []
    assert sync_rig.memory.ovs.ports == {}
    sync_rig.change(plain(sync_rig.memory.vfs[2], marks[0]))
    sync_rig.domain_sync.follow(uuid)
    assert [port.tag for port in sync_rig.memory.ovs.ports.values()] == [42]


# -- the pool of the mark and that of the VF


def test_a_vf_of_another_pool_than_its_mark_names_does_not_start(make_rig: MakeRig) -> None:
    left = replace(POOL, name="left", pfs=(PciAddress(0, 2, 0, 0),), bridge="br-left")
    rig = make_rig(config=Config({"data": POOL, "left": left}))
    xml = guest(1, rig.memory.vfs[0], marks="pool='left' vlan='42'")
    for operation in ("prepare", "start"):
        with pytest.raises(Refused, match=f"of pool 'left' .*but {rig.memory.vfs[0]} is of pool 'data'"):
            rig.call(operation, xml)
    rig.call("reconnect", xml)
    assert rig.store.all() == []
    assert rig.memory.ovs.ports == {}


def test_a_vf_of_no_pool_does_not_start_where_its_mark_names_one(make_rig: MakeRig) -> None:
    rig = make_rig(config=Config({"data": replace(POOL, pfs=(PciAddress(0, 2, 0, 0),))}))
    with pytest.raises(Refused, match="is in no pool of this host"):
        rig.call("prepare", guest(1, rig.memory.vfs[0]))


# -- a manager's choice


def stamped(form: str, address: PciAddress) -> str:
    """A guest that arrives, with the mark of its source and this address in its XML."""
    mark = f"address='{ELSEWHERE}' pool='data' vlan='42'"
    return plain(address, f"mac='{MAC}' {mark}") if form == "hostdev" else guest(1, address, marks=mark)


@pytest.mark.parametrize("form", ["interface", "hostdev"])
@pytest.mark.parametrize("operation", ["migrate", "restore"])
def test_a_vf_that_the_manager_names_is_taken(rig: Rig, form: str, operation: str) -> None:
    answer = rig.call(operation, stamped(form, rig.memory.vfs[1]))
    assert answer is not None
    (claim,) = rig.store.all()
    assert (claim.vf, claim.mac, claim.vlan) == (rig.memory.vfs[1], MAC, 42)
    (interface,) = domain_xml.read(answer).interfaces
    assert interface.address == rig.memory.vfs[1]
    assert interface.mark is not None
    assert interface.mark.address == rig.memory.vfs[1]


@pytest.mark.parametrize("form", ["interface", "hostdev"])
def test_a_vf_that_the_manager_names_is_not_replaced_by_another(rig: Rig, form: str) -> None:
    taken = rig.memory.vfs[1]
    rig.run(guest(2, taken))
    with pytest.raises(
        Refused, match=f"VF {taken} of pool 'data' cannot be given to guest 'guest1': it is held"
    ):
        rig.call("migrate", stamped(form, taken))
    assert [claim.domain_name for claim in rig.store.all()] == ["guest2"]


@pytest.mark.parametrize("form", ["interface", "hostdev"])
def test_a_named_vf_that_is_not_of_the_pool_is_refused(rig: Rig, form: str) -> None:
    with pytest.raises(Refused, match=r"0000:41:00\.1 is not a VF of pool 'data'"):
        rig.call("migrate", stamped(form, PciAddress(0, 0x41, 0, 1)))


@pytest.mark.parametrize("form", ["interface", "hostdev"])
def test_a_named_vf_that_cannot_take_the_state_is_refused(rig: Rig, form: str) -> None:
    xml = stamped(form, rig.memory.vfs[1]).replace("pool='data'", "pool='data' firmware='28.39.2048'")
    with pytest.raises(Refused, match=r"28\.39\.2048 .* 28\.42\.1000"):
        rig.call("migrate", xml)


def test_a_named_vf_is_not_given_to_another_interface_of_the_guest(rig: Rig) -> None:
    """The VF that vfmigrate would have taken first."""
    last = rig.memory.vfs[-1]
    first = PciAddress(0, 0x81, 0, 3)
    xml = guest(1, first, last)
    for index, address in enumerate((first, ELSEWHERE)):
        mac = f"52:54:00:00:01:{index:02x}"
        xml = xml.replace(f"vf mac='{mac}'", f"vf mac='{mac}' address='{address}'")
    rig.call("migrate", xml)
    assert {claim.mac: claim.vf for claim in rig.store.all()} == {
        "52:54:00:00:01:00": rig.memory.vfs[-2],
        "52:54:00:00:01:01": last,
    }


# -- one MAC for several interfaces


@pytest.mark.parametrize("addressed", [True, False])
def test_interfaces_with_one_mac_start_in_their_own_vlans(rig: Rig, addressed: bool) -> None:
    rig.run(twins(*rig.memory.vfs[:2], addressed=addressed))
    assert vlans(rig) == {rig.memory.vfs[0]: 42, rig.memory.vfs[1]: 43}
    ids = [port.external_ids["iface-id"] for port in rig.memory.ovs.ports.values()]
    assert len(set(ids)) == 2


def test_interfaces_with_one_mac_arrive_in_their_own_vlans(sync_rig: SyncRig) -> None:
    sources = (ELSEWHERE, PciAddress(0, 0x81, 0, 3))
    xml = twins(*sources)
    there = sync_rig.call("migrate", xml)
    assert there is not None
    uuid = sync_rig.start(there)
    sync_rig.libvirt.definitions[uuid] = twins(*sources, addressed=False)
    sync_rig.domain_sync.settle(uuid)
    by_position = [each.address for each in domain_xml.read(there).interfaces]
    assert len(set(by_position)) == 2
    assert [vlans(sync_rig)[vf] for vf in by_position if vf is not None] == [42, 43]
    (defined,) = sync_rig.libvirt.defined
    assert [each.address for each in domain_xml.read(defined).interfaces] == by_position
    assert [(mark.address, mark.vlan) for mark in sync_rig.libvirt.stamps[uuid]] == [
        (by_position[0], 42),
        (by_position[1], 43),
    ]


def test_interfaces_with_one_mac_of_a_network_arrive_in_their_own_vlans(rig: Rig) -> None:
    """Libvirt gives them VFs only once they start, by chance with each other's former addresses."""
    network = f"<interface type='network'><mac address='{MAC}'/><source network='data'/></interface>"
    marks = "".join(
        f"<v:vf mac='{MAC}' address='{rig.memory.vfs[index]}' pool='data' vlan='{42 + index}'/>"
        for index in (0, 1)
    )
    arriving = guest(1, extra=network * 2).replace("domain:1'>", f"domain:1'>{marks}")
    answer = rig.call("migrate", arriving)
    assert answer is not None
    resolved = twins(rig.memory.vfs[1], rig.memory.vfs[0])
    end = resolved.index("<devices>")
    rig.run(answer[: answer.index("<devices>")] + resolved[end:])
    assert vlans(rig) == {rig.memory.vfs[1]: 42, rig.memory.vfs[0]: 43}


def test_the_mark_of_an_unplugged_twin_stays(sync_rig: SyncRig) -> None:
    both = twins(*sync_rig.memory.vfs[:2])
    uuid = sync_rig.start(both)
    end = both.index("</interface>") + len("</interface>")
    sync_rig.change(both[:end] + "</devices></domain>")
    sync_rig.domain_sync.follow(uuid)
    held, left = sync_rig.libvirt.stamps[uuid]
    assert (held.address, held.vlan) == (sync_rig.memory.vfs[0], 42)
    assert (left.address, left.vlan) == (None, 43)
