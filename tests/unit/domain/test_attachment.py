# SPDX-License-Identifier: GPL-2.0-or-later
"""A VF put into a definition and taken out again: what is there meanwhile, and that nothing is left."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.strategies.failover.test_definition import GUEST, MAC, marked
from vfmigrate.cli import attach_verb
from vfmigrate.domain import attachment, domain_xml
from vfmigrate.domain.attachment import Attachment
from vfmigrate.errors import InputError, Refused
from vfmigrate.model import strategy
from vfmigrate.model.pci import PciAddress

NEW = "52:54:00:00:00:77"
VF = PciAddress.parse("0000:e1:00.3")
PLAIN = GUEST.replace(GUEST[GUEST.index("    <interface") : GUEST.index("    <graphics")], "")
OTHER = PLAIN.replace("</uuid>\n", "</uuid>\n  <metadata>\n    <app:a xmlns:app='urn:app'/>\n  </metadata>\n")
NO_PREFIX = GUEST.replace(
    "</uuid>\n",
    f"</uuid>\n  <metadata>\n    <vfs xmlns='urn:vfmigrate:domain:1'>\n      <vf mac='{MAC}'/>\n    </vfs>\n"
    "  </metadata>\n",
)


def wish(network: Optional[str] = "vfmigrate-data", vlan: Optional[int] = 42) -> Attachment:
    return Attachment(NEW, "data", network, VF, vlan, "replug")


@pytest.mark.parametrize("xml", [PLAIN, GUEST, OTHER, marked("pool='data'"), NO_PREFIX])
@pytest.mark.parametrize("network", ["vfmigrate-data", None])
def test_attach_and_detach_restore_every_byte(xml: str, network: Optional[str]) -> None:
    changed = attachment.attached(xml, wish(network))
    before = domain_xml.read(xml).interfaces
    *others, vf = domain_xml.read(changed).interfaces
    assert [each.mark for each in others] == [each.mark for each in before]
    assert (vf.mac, vf.mark) == (NEW, wish().mark())
    assert (vf.form, vf.address) == (("network", None) if network else ("interface", VF))
    assert attachment.detached(changed, vf) == xml


def test_the_name_of_a_network_is_escaped() -> None:
    changed = attachment.attached(PLAIN, wish('a\'b & "c"'))
    assert "<source network='a&apos;b" not in changed
    assert domain_xml.read(changed).interfaces[-1].form == "network"


@settings(deadline=None)
@given(
    st.sampled_from([PLAIN, GUEST, OTHER, NO_PREFIX]),
    st.none() | st.integers(1, 4094),
    st.none() | st.sampled_from(strategy.NAMES),
    st.none() | st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=20),
)
def test_an_attached_vf_is_found_and_detached_again(
    xml: str, vlan: Optional[int], strategy: Optional[str], network: Optional[str]
) -> None:
    asked = Attachment(NEW, "data", network, VF, vlan, strategy)
    changed = attachment.attached(xml, asked)
    vf = attachment.find(changed, NEW)
    assert vf is not None
    assert vf.mark == asked.mark()
    assert attachment.detached(changed, vf) == xml


def test_an_attachment_without_network_and_vf_is_refused() -> None:
    with pytest.raises(InputError, match="pool 'data' has neither a libvirt network nor a VF"):
        attachment.attached(PLAIN, Attachment(NEW, "data"))


def with_ports(*options: str) -> str:
    """The guest, whose VF is in port 2, with further ports."""
    ports = "".join(
        f"<controller type='pci' index='{index}' model='pcie-root-port'>{option}</controller>"
        for index, option in enumerate(options, start=3)
    )
    return GUEST.replace("</devices>", f"{ports}</devices>")


def test_a_free_port_is_found() -> None:
    attachment.check_free_port(GUEST)  # port 1 is
    attachment.check_free_port(with_ports(""))


@pytest.mark.parametrize(
    "xml",
    [
        GUEST.replace("model='pcie-root-port'", "model='pcie-to-pci-bridge'"),
        GUEST.replace(
            "</devices>",
            "<video><address type='pci' domain='0' bus='1' slot='0' function='0'/></video></devices>",
        ),
        GUEST.replace("<target chassis='1' port='0x8'/>", "<target chassis='1' port='0x8' hotplug='off'/>"),
    ],
)
def test_a_guest_without_a_free_port_is_refused(xml: str) -> None:
    with pytest.raises(Refused, match="guest 'g' has no free PCI Express port"):
        attachment.check_free_port(xml)


def test_free_slots_of_conventional_pci_are_not_checked() -> None:
    attachment.check_free_port(PLAIN.replace("pcie-root'", "pci-root'"))


@given(st.sets(st.from_regex(r"\A52:54:00(:[0-9a-f]{2}){3}\Z"), max_size=5))
def test_a_new_mac_is_unique(taken: set[str]) -> None:
    mac = attach_verb.new_mac(taken)
    assert mac not in taken
    assert mac.startswith("52:54:00:")
