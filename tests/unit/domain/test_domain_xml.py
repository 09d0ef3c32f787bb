# SPDX-License-Identifier: GPL-2.0-or-later
"""Domain XML: which VFs it names, and that rewriting touches nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmigrate.domain import domain_xml
from vfmigrate.errors import InputError
from vfmigrate.model import limits
from vfmigrate.model.pci import PciAddress

UUID = "22222222-2222-4222-8222-222222222222"
MARKED = """<!-- kept: written by libvirt -->
<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>guest1</name>
  <uuid>22222222-2222-4222-8222-222222222222</uuid>
  <metadata>
    <ns1:vfs xmlns:ns1='urn:vfmigrate:domain:1'>
      <ns1:vf mac='52:54:00:00:00:02' pool='data' vlan='42' address='0000:01:10.2'/>
      <ns1:vf address='0000:01:10.4' pool='data' mac='52:54:00:00:00:04'/>
    </ns1:vfs>
    <other:thing xmlns:other='urn:other'>text &amp; more</other:thing>
  </metadata>
  <devices>
    <!-- the fast one -->
    <interface type='hostdev' managed='yes'>
      <mac address='52:54:00:00:00:02'/>
      <source>
        <address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x2'/>
      </source>
      <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>
    </interface>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <source><address domain='0x0000' bus='0x01' slot='0x10' function='0x4'/></source>
    </hostdev>
    <hostdev mode='subsystem' type='usb'><source><vendor id='0x1'/></source></hostdev>
    <interface type='network'><mac address='52:54:00:00:00:09'/><source network='default'/></interface>
    <interface type='bridge'><mac address='52:54:00:00:00:0a'/><source bridge='br0'/></interface>
  </devices>
  <qemu:commandline><qemu:arg value='-S'/></qemu:commandline>
</domain>
"""


def test_each_form_of_a_vf_is_read() -> None:
    read = domain_xml.read(MARKED)
    assert (read.name, read.uuid, read.viommu) == ("guest1", UUID, False)
    interface, hostdev, network = read.interfaces
    assert (interface.form, interface.mac, interface.managed) == ("interface", "52:54:00:00:00:02", True)
    assert interface.address == PciAddress(0, 1, 0x10, 2)
    assert interface.mark is not None
    assert interface.mark.vlan == 42
    assert (hostdev.form, hostdev.mac, hostdev.managed) == ("hostdev", None, False)
    assert hostdev.wanted_mac == "52:54:00:00:00:04"  # by address: a plain <hostdev> has no MAC
    assert (network.form, network.address, network.mark) == ("network", None, None)


def test_a_usb_device_is_no_vf() -> None:
    usb = "<address type='usb' bus='0' device='3'/>"
    pci = "<address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x2'/>"
    assert [each.form for each in domain_xml.read(MARKED.replace(pci, usb)).interfaces] == [
        "hostdev",
        "network",
    ]


def test_a_vf_is_seen_whatever_its_teaming_is() -> None:
    teaming = "<teaming type='persistent'/><source>"
    read = domain_xml.read(MARKED.replace("<source>", teaming, 1))
    assert [each.form for each in read.interfaces] == ["interface", "hostdev", "network"]
    assert read.standbys == ()


def test_numbers_are_read_as_libvirt_reads_them() -> None:
    xml = MARKED.replace("slot='0x10' function='0x2'", "slot='020' function='02'")
    assert domain_xml.read(xml).interfaces[0].address == PciAddress(0, 1, 16, 2)


def test_a_guest_with_many_marks_is_read() -> None:
    marks = "".join(f"<ns1:vf mac='52:54:00:00:01:{number:02x}' pool='data'/>" for number in range(200))
    assert len(domain_xml.read(MARKED.replace("</ns1:vfs>", f"{marks}</ns1:vfs>")).marks) == 202


def test_an_address_in_another_attribute_is_not_rewritten() -> None:
    note = """note=" bus='0x01' address='0000:01:10.2' " """
    xml = MARKED.replace("<ns1:vf mac='52:54:00:00:00:02'", f"<ns1:vf {note} mac='52:54:00:00:00:02'")
    rewritten = domain_xml.readdress(
        xml, {domain_xml.read(xml).interfaces[0].position: PciAddress(0, 2, 3, 4)}
    )
    assert note in rewritten
    assert "vlan='42' address='0000:02:03.4'" in rewritten


def test_a_virtual_iommu_is_found() -> None:
    assert domain_xml.read(MARKED.replace("<devices>", "<devices><iommu model='intel'/>")).viommu


def test_rewriting_changes_the_address_in_device_and_mark_and_nothing_else() -> None:
    read = domain_xml.read(MARKED)
    rewritten = domain_xml.readdress(MARKED, {read.interfaces[0].position: PciAddress(0, 1, 0x11, 6)})
    expected = MARKED.replace(
        "slot='0x10' function='0x2'/>\n      </source>", "slot='0x11' function='0x6'/>\n      </source>"
    ).replace("'0000:01:10.2'/>", "'0000:01:11.6'/>")
    assert rewritten == expected
    assert domain_xml.read(rewritten).interfaces[0].address == PciAddress(0, 1, 0x11, 6)


# libvirt 12.1 and later: the devices are opened by their own nodes and /dev/iommu (IOMMUFD)
IOMMUFD = MARKED.replace("  <devices>", "  <iommufd enabled='yes'/>\n  <devices>").replace(
    "<hostdev mode='subsystem' type='pci' managed='no'>",
    "<hostdev mode='subsystem' type='pci' managed='no'>\n      <driver name='vfio' iommufd='yes'/>",
)


def test_a_guest_with_iommufd_migrates_there_and_back() -> None:
    first, second, _ = domain_xml.read(IOMMUFD).interfaces
    assert not domain_xml.read(IOMMUFD).viommu
    assert second.address == PciAddress(0, 1, 0x10, 4)
    there = domain_xml.readdress(
        IOMMUFD, {first.position: PciAddress(0, 0x41, 0, 2), second.position: PciAddress(0, 0x41, 0, 3)}
    )
    assert "<iommufd enabled='yes'/>" in there
    assert "<driver name='vfio' iommufd='yes'/>" in there
    back = domain_xml.read(there).interfaces
    assert [each.address for each in back[:2]] == [PciAddress(0, 0x41, 0, 2), PciAddress(0, 0x41, 0, 3)]
    assert (
        domain_xml.readdress(
            there, {first.position: PciAddress(0, 1, 0x10, 2), second.position: PciAddress(0, 1, 0x10, 4)}
        )
        == IOMMUFD
    )


def test_rewriting_nothing_is_the_same_xml() -> None:
    assert domain_xml.readdress(MARKED, {}) == MARKED


def test_rewriting_keeps_quotes_order_and_odd_spacing() -> None:
    odd = MARKED.replace(
        "<address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x2'/>",
        """<address\n  slot = "0x10" bus='1' note='a>b' function='2' ></address>""",
    )
    rewritten = domain_xml.readdress(
        odd, {domain_xml.read(odd).interfaces[0].position: PciAddress(0, 2, 3, 4)}
    )
    expected = (
        """<address domain='0x0000'\n  slot = "0x03" bus='0x02' note='a>b' function='0x4' ></address>"""
    )
    assert expected in rewritten
    assert domain_xml.read(rewritten).interfaces[0].address == PciAddress(0, 2, 3, 4)


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        ("", "not well-formed"),
        ("<domain>", "not well-formed"),
        ("<network/>", "of a <network>, not of a <domain>"),
        ("<domain><name>x</name></domain>", "no <uuid>"),
        ("<!DOCTYPE d [<!ENTITY a 'b'>]><domain/>", "document type declaration"),
        ("<domain><name>x</name><uuid>guest1</uuid></domain>", "an invalid <uuid>"),
        (
            MARKED.replace("mac address='52:54:00:00:00:02'", "mac address='52:54'"),
            "an invalid MAC address",
        ),
        (MARKED.replace("bus='0x01'", "bus='zwei'"), "PCI address that is not a number"),
        (MARKED.replace("slot='0x10'", "slot='0x40'"), "PCI address out of range"),
        (MARKED.replace("vlan='42'", "vlan='4095'"), "metadata cannot be read: vlan='4095'"),
        (
            MARKED.replace("mac='52:54:00:00:00:02' pool", "mac='nonsense' pool"),
            "metadata cannot be read: mac=",
        ),
        (MARKED.replace("pool='data' vlan", "pool='a b' vlan"), "metadata cannot be read: pool="),
        (MARKED.replace("pool='data' vlan", "strategy='magic' vlan"), "has the unknown strategy 'magic'"),
        ("<domain>" + "x" * limits.MAX_XML_BYTES + "</domain>", "at most"),
        ("<a>" * 5000, "not well-formed"),
    ],
)
def test_bad_input_is_refused_in_one_line(xml: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        domain_xml.read(xml)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "cut", ["<interface type='hostdev' managed='yes'>", "</devices>", "<devices>", "<uuid>"]
)
@pytest.mark.parametrize("piece", ["<a x='", '<a x="', "<!--", "<![CDATA[", "<a ", "</", "&", "<?"])
def test_malformed_xml_is_not_quoted(cut: str, piece: str) -> None:
    """The parser stumbles over whatever comes next: that may be a password."""
    xml = MARKED.replace(cut, f"{piece}<graphics passwd='planted-9f1c'/>planted-9f1c {cut}")
    with pytest.raises(InputError, match="not well-formed at line") as error:
        domain_xml.read(xml)
    assert "planted" not in str(error.value)


def test_external_entities_are_never_read() -> None:
    xml = "<!DOCTYPE d [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><domain><name>&x;</name></domain>"
    with pytest.raises(InputError, match="document type declaration"):
        domain_xml.read(xml)


def test_a_utf16_document_cannot_smuggle_a_doctype() -> None:
    xml = "<?xml version='1.0' encoding='utf-16'?><!DOCTYPE d [<!ENTITY a 'b'>]><domain><name>&a;</name></domain>"
    with pytest.raises(InputError):
        domain_xml.read(xml.encode("utf-16"))


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        domain_xml.read(data)


@given(st.data())
def test_a_damaged_domain_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(MARKED)))
    length = data.draw(st.integers(0, 60))
    replacement = data.draw(st.text(max_size=30))
    xml = MARKED[:start] + replacement + MARKED[start + length :]
    try:
        read = domain_xml.read(xml)
        addressed = {
            interface.position: PciAddress(1, 2, 3, 4) for interface in read.interfaces if interface.address
        }
        again = domain_xml.read(domain_xml.readdress(xml, addressed))
    except InputError:
        return
    assert [interface.address for interface in again.interfaces if interface.address] == [
        PciAddress(1, 2, 3, 4) for _ in addressed
    ]
