# SPDX-License-Identifier: GPL-2.0-or-later
"""Failover pairs in a guest's definition: made, refused, and taken away again without a trace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vfmigrate.domain import additions, domain_xml
from vfmigrate.domain.markup import Markup
from vfmigrate.errors import InputError, Refused
from vfmigrate.rules import failover_pair
from vfmigrate.strategies.failover import definition
from vfmigrate.strategies.failover.definition import StandbyOptions

MAC = "52:54:00:00:00:02"
ALIAS = "ua-standby-525400000002"
VF = f"""\
    <interface type='hostdev' managed='yes'>
      <mac address='{MAC}'/>
      <source>
        <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x2'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
    </interface>
"""
GUEST = f"""\
<domain type='kvm'>
  <name>g</name>
  <uuid>11111111-1111-4111-8111-000000000001</uuid>
  <os>
    <type arch='x86_64' machine='pc-q35-10.0'>hvm</type>
  </os>
  <devices>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'>
      <target chassis='1' port='0x8'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0' multifunction='on'/>
    </controller>
    <controller type='pci' index='2' model='pcie-root-port'>
      <target chassis='2' port='0x9'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x1'/>
    </controller>
{VF}    <graphics type='vnc' passwd='hunter2'/>
  </devices>
</domain>
"""
WISH = StandbyOptions(bridge="br-data", openvswitch=True, vlan=42)
MARK = "<v:vfs xmlns:v='urn:vfmigrate:domain:1'><v:vf mac='{mac}' {words}/></v:vfs>"


def marked(words: str, xml: str = GUEST) -> str:
    mark = MARK.format(mac=MAC, words=words)
    return xml.replace("</uuid>\n", f"</uuid>\n  <metadata>\n    {mark}\n  </metadata>\n")


def with_devices(xml: str, devices: str) -> str:
    return xml.replace("  </devices>", devices + "  </devices>")


def test_enabling_makes_standby_and_vf_a_pair() -> None:
    changed = definition.enable(GUEST, WISH)
    (made,) = failover_pair.pairs(domain_xml.read(changed))
    assert (made.vf.wanted_mac, made.vf.standby, made.standby.alias) == (MAC, ALIAS, ALIAS)
    assert (made.standby.mac, made.standby.model) == (MAC, "virtio")
    assert (made.standby.kind, made.standby.source, made.standby.vlan) == ("bridge", "br-data", 42)
    assert made.standby.openvswitch


def test_enabling_keeps_each_other_line() -> None:
    """Every line that was there is there still, in its order."""
    lines = iter(definition.enable(GUEST, WISH).splitlines())
    assert all(line in lines for line in GUEST.splitlines())


@pytest.mark.parametrize(
    "xml",
    [
        GUEST,
        marked("pool='data' vlan='42'"),
        GUEST.replace("</uuid>\n", "</uuid>\n  <metadata>\n    <x:y xmlns:x='urn:x'/>\n  </metadata>\n"),
    ],
    ids=["bare", "with a mark", "with another's metadata"],
)
@pytest.mark.parametrize(
    "wish",
    [WISH, StandbyOptions(bridge="virbr0"), StandbyOptions(network="net & work")],
    ids=["ovs", "linux", "network"],
)
def test_disabling_restores_every_byte(xml: str, wish: StandbyOptions) -> None:
    assert definition.disable(definition.enable(xml, wish)) == xml


def test_enabling_twice_is_no_change() -> None:
    changed = definition.enable(GUEST, WISH)
    assert definition.enable(changed, WISH) == changed
    with pytest.raises(Refused, match="has another standby already"):
        definition.enable(changed, replace(WISH, bridge="br0"))


def test_disabling_one_of_two_pairs_keeps_the_other() -> None:
    other = VF.replace(MAC, "52:54:00:00:00:03").replace("bus='0x02'", "bus='0x01'")
    two = GUEST.replace(VF, VF + other)
    one = definition.enable(two, replace(WISH, mac=MAC))
    both = definition.enable(one, replace(WISH, mac="52:54:00:00:00:03"))
    assert len(failover_pair.pairs(domain_xml.read(both))) == 2
    assert definition.disable(both, "52:54:00:00:00:03") == one
    with pytest.raises(Refused, match="several failover pairs"):
        definition.disable(both)


def test_the_standby_gets_the_vlan_of_the_vf() -> None:
    changed = definition.enable(marked("pool='data' vlan='43'"), replace(WISH, vlan=None))
    assert failover_pair.pairs(domain_xml.read(changed))[0].standby.vlan == 43


def test_an_interface_of_a_network_is_a_vf_if_the_network_is_a_pools() -> None:
    first, rest = GUEST.replace("type='hostdev' managed='yes'", "type='network'").split("<source>")
    pooled = f"{first}<source network='vfmigrate-data'/>{rest.split('</source>')[1]}"
    with pytest.raises(Refused, match="guest 'g' has no VF"):
        definition.enable(pooled, WISH)
    changed = definition.enable(pooled, WISH, {"vfmigrate-data"})
    assert failover_pair.pairs(domain_xml.read(changed))[0].vf.form == "network"
    assert definition.disable(changed) == pooled


def test_a_plain_hostdev_joins_a_pair_by_the_mac_of_its_mark() -> None:
    hostdev = VF.replace("interface type='hostdev'", "hostdev mode='subsystem' type='pci'").replace(
        f"      <mac address='{MAC}'/>\n", ""
    )
    plain = GUEST.replace(VF, hostdev.replace("</interface>", "</hostdev>"))
    with pytest.raises(Refused, match=r"VF 0000:01:00\.2 of guest 'g' has no MAC"):
        definition.enable(plain, WISH)
    known = marked("address='0000:01:00.2' pool='data'", plain)
    assert failover_pair.pairs(domain_xml.read(definition.enable(known, WISH)))[0].standby.mac == MAC


TWIN = (
    f"<interface type='bridge'><mac address='{MAC}'/><source bridge='b'/><model type='e1000'/></interface>\n"
)
SOUND = f"<sound model='ich9'><alias name='{ALIAS}'/></sound>\n"


@pytest.mark.parametrize(
    ("xml", "wish", "told"),
    [
        (GUEST.replace(VF, ""), WISH, "guest 'g' has no VF"),
        (GUEST, replace(WISH, mac="52:54:00:00:00:09"), "no VF with MAC 52:54:00:00:00:09"),
        (GUEST.replace(VF, VF + VF.replace(MAC, MAC[:-1] + "3")), WISH, "several VFs.*choose one with --mac"),
        (with_devices(GUEST, TWIN), WISH, f"another interface with MAC {MAC}, of model 'e1000'"),
        (with_devices(GUEST, SOUND), WISH, f"has the alias '{ALIAS}' already"),
        (
            GUEST,
            replace(WISH, alias="standby"),
            "libvirt does not keep the alias 'standby'; begin it with ua-",
        ),
        (marked("strategy='vfio'"), WISH, "the strategy 'vfio'"),
        (marked("vlan='43'"), WISH, "VLAN 43 and its standby .* in VLAN 42"),
        (GUEST, replace(WISH, openvswitch=False), "a VLAN only on a bridge of Open vSwitch"),
        (GUEST.replace(VF, VF.replace("<source>", "<vlan><tag id='1'/></vlan><source>")), WISH, "a <vlan>"),
        (GUEST.replace("bus='0x02' slot='0x00'", "bus='0x00' slot='0x03'"), WISH, "on a pcie-root in"),
        (
            GUEST.replace("slot='0x00' function='0x0'/>", "slot='0x00' function='0x1'/>"),
            WISH,
            "shares its slot",
        ),
        (GUEST.replace("port='0x9'", "port='0x9' hotplug='off'"), WISH, "pcie-root-port without hot-plug"),
        (
            GUEST.replace("pc-q35-10.0", "pc-i440fx-10.0"),
            WISH,
            "machine type 'pc-i440fx-10.0', which has no PCI Express",
        ),
    ],
)
def test_a_definition_that_cannot_have_a_pair_is_refused(xml: str, wish: StandbyOptions, told: str) -> None:
    with pytest.raises(Refused, match=told):
        definition.enable(xml, wish)


def test_a_guest_with_two_vfs_behind_one_standby_is_refused() -> None:
    changed = definition.enable(GUEST, WISH)
    teamed = Markup(changed).root.first("devices/interface")
    assert teamed is not None
    second = VF.replace(
        "      <source>", f"      <teaming type='transient' persistent='{ALIAS}'/>\n      <source>"
    )
    shared = changed.replace("    <graphics", second + "    <graphics")
    with pytest.raises(Refused, match=f"shares its standby '{ALIAS}' with another"):
        failover_pair.pairs(domain_xml.read(shared))
    third = VF.replace(MAC, "52:54:00:00:00:04")
    with pytest.raises(Refused, match="shares its standby"):
        definition.enable(
            shared.replace("    <graphics", third + "    <graphics"), replace(WISH, mac="52:54:00:00:00:04")
        )


def test_a_pair_that_vfmigrate_did_not_make_is_left_alone() -> None:
    changed = definition.enable(GUEST, WISH)
    element = Markup(changed).root.first("metadata")
    assert element is not None
    foreign = Markup(changed)
    foreign.remove(next(foreign.root.all("metadata")))
    with pytest.raises(Refused, match="was not made by vfmigrate"):
        definition.disable(foreign.text())
    with pytest.raises(Refused, match="has no failover pair"):
        definition.disable(GUEST)


PORT = """\
    <controller type='pci' index='3' model='pcie-root-port'>
      <target chassis='3' port='0xa'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x2'/>
    </controller>
"""


def as_libvirt_keeps_it(xml: str) -> str:
    """As libvirt writes it, which gives the standby an address on a port that it adds."""
    address = "<address type='pci' domain='0x0000' bus='0x03' slot='0x00' function='0x0'/>"
    aliased = f"<alias name='{ALIAS}'/>"
    return xml.replace(aliased, f"{aliased}\n      {address}").replace(
        "    <interface", PORT + "    <interface", 1
    )


def test_disabling_removes_controllers_that_libvirt_added_for_the_standby() -> None:
    kept = additions.note_controllers(GUEST, as_libvirt_keeps_it(definition.enable(GUEST, WISH)))
    assert "controllers='3'" in kept
    assert definition.disable(kept) == GUEST


def test_a_controller_with_another_device_stays() -> None:
    kept = additions.note_controllers(GUEST, as_libvirt_keeps_it(definition.enable(GUEST, WISH)))
    newcomer = "    <rng><address type='pci' domain='0x0000' bus='0x03' slot='0x01' function='0x0'/></rng>\n"
    restored = definition.disable(with_devices(kept, newcomer))
    assert restored == with_devices(GUEST.replace(VF, PORT + VF), newcomer)


def test_malformed_xml_is_refused() -> None:
    for xml in ("", "<domain>", "<a/>"):
        with pytest.raises(InputError):
            definition.enable(xml, WISH)


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        ("<a><b/></a>", "<a><b>\n  x\n</b></a>"),
        ("<a><b><c/></b></a>", "<a><b><c/>\n  x</b></a>"),
        ("<a>\n  <b k='>'/>\n</a>", "<a>\n  <b k='>'>\n    x\n  </b>\n</a>"),
        ("<a>\n  <b>\n    <c/>\n  </b>\n</a>", "<a>\n  <b>\n    <c/>\n    x\n  </b>\n</a>"),
        ("<a>\n  <b></b>\n</a>", "<a>\n  <b>\n    x</b>\n</a>"),
    ],
)
def test_a_line_is_appended_at_the_end_of_its_element(xml: str, text: str) -> None:
    markup = Markup(xml)
    element = markup.root.first("b")
    assert element is not None
    markup.append(element, ["x"])
    assert markup.text() == text


def test_a_pair_that_is_gone_leaves_no_strategy_that_would_refuse_the_next_start() -> None:
    attached = marked("pool='data' vlan='42' strategy='failover'")  # as vfmigrate attach --strategy failover
    left = domain_xml.read(definition.disable(definition.enable(attached, WISH)))
    (vf,) = left.interfaces
    assert vf.mark is not None
    assert (vf.mark.pool, vf.mark.vlan, vf.mark.strategy) == ("data", 42, None)


def test_another_strategy_in_the_metadata_stays() -> None:
    both = marked("pool='data'").replace(
        "</v:vfs>", "<v:vf mac='52:54:00:00:00:09' strategy='failover'/></v:vfs>"
    )
    assert definition.disable(definition.enable(both, WISH)) == both
