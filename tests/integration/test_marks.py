# SPDX-License-Identifier: GPL-2.0-or-later
"""With real libvirt: which VF and VLAN an interface gets by its mark, by what a manager names, and beside its twin."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Outcome, Pair
from tests.integration.test_migration import FORMS, MAC, OTHER_MAC, vf_index, vfs_of
from tests.testbed.run import CommandError
from vfmigrate.domain import domain_xml
from vfmigrate.model.pci import PciAddress

pytestmark = pytest.mark.hosts


def tags_of(node: Node) -> list[object]:
    """The VLANs of the guest's VFs, in the order of its XML."""
    ports = node.switch_ports()
    vfs = vfs_of(node.host.virsh("dumpxml", "g"))
    return [ports[node.representor(vf_index(node, vf))].tag for vf in vfs]


def migrate_with(node: Node, target: Node, vf: str) -> Outcome:
    """Migrate the guest `g` with XML in which a manager names a VF of the destination."""
    xml = node.host.virsh("dumpxml", "--migratable", "g")
    (interface,) = domain_xml.read(xml).interfaces
    device = domain_xml.device(xml, interface.position)
    named = domain_xml.readdress(xml, {interface.position: PciAddress.parse(vf)})
    named_device = domain_xml.device(named, interface.position)
    node.host.write("/run/named.xml", xml.replace(device, named_device))
    return node.migrate("g", target, "--xml", "/run/named.xml")


def test_a_plain_hostdev_that_was_edited_keeps_its_mac_and_vlan(ready: Pair) -> None:
    a, b = ready.a, ready.b
    before = a.state()
    marked = Vf(a.vf(1), MAC, vlan=42, form="hostdev", plugged=False)
    a.start_guest(Guest("g", [marked], extra=replace(marked, address=a.vf(2), plugged=True).device()))
    assert (tags_of(a), a.port(2).hw_addr) == ([42], MAC)
    outcome = a.migrate("g", b)
    assert outcome.status == 0, outcome.error
    assert tags_of(b) == [42]
    assert a.state() == before


def test_a_guest_whose_marks_could_belong_to_either_vf_does_not_start(ready: Pair) -> None:
    a = ready.a
    before = a.state()
    vfs = [
        Vf(a.vf(index), mac, vlan=vlan, form="hostdev", plugged=False)
        for index, mac, vlan in ((0, MAC, 42), (1, OTHER_MAC, 43))
    ]
    extra = "".join(
        replace(vf, address=a.vf(index + 2), plugged=True).device() for index, vf in enumerate(vfs)
    )
    with pytest.raises(CommandError, match="a mark that no VF of the guest has"):
        a.start_guest(Guest("g", vfs, extra=extra))
    assert a.state() == before


@pytest.mark.parametrize("form", FORMS)
def test_the_vf_that_a_manager_names_is_taken_or_refused(ready: Pair, form: str) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest("g", [Vf(a.vf(1), MAC, vlan=42, form=form)]))
    a.wait_until_settled()
    b.start_guest(Guest("other", [Vf(b.vf(2), OTHER_MAC)], 2))
    refused = migrate_with(a, b, b.vf(2))
    assert refused.status != 0
    assert (
        f"VF {b.vf(2)} of pool 'data' cannot be given to guest 'g': it is held by guest 'other'"
        in refused.error
    )
    assert a.host.domains() == {"g": "running"}
    taken = migrate_with(a, b, b.vf(1))
    assert taken.status == 0, taken.error
    assert vfs_of(b.host.virsh("dumpxml", "g")) == [b.vf(1)]
    assert tags_of(b) == [42]


@pytest.mark.parametrize("form", ["interface", "network"])
def test_interfaces_with_one_mac_keep_their_vlans_and_boot_again(ready: Pair, form: str) -> None:
    a, b = ready.a, ready.b
    if form == "network":
        for node in (a, b):
            node.make_network("data")
    vfs = [Vf(a.vf(index), MAC, vlan=42 + index, form=form) for index in (0, 1)]
    a.define_guest(Guest("g", vfs))
    a.host.virsh("start", "g")
    assert tags_of(a) == [42, 43]
    ids = {port.ids["iface-id"] for port in a.switch_ports().values()}
    assert len(ids) == 2
    a.wait_until_settled()
    outcome = a.migrate("g", b, "--persistent", "--undefinesource")
    assert outcome.status == 0, outcome.error
    assert tags_of(b) == [42, 43]
    assert {port.ids["iface-id"] for port in b.switch_ports().values()} == ids
    here = vfs_of(b.host.virsh("dumpxml", "g"))
    if form == "interface":
        wait_for(
            "the definition to be mended",
            lambda: vfs_of(b.host.virsh("dumpxml", "--inactive", "g")) == here,
        )
    b.host.virsh("destroy", "g")
    b.host.virsh("start", "g")
    assert tags_of(b) == [42, 43]
