# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests with VFs of a host: what is said of each, and whether it can leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from tests.unit.preflight.snapshots import ADDRESS, HELD, LIBVIRT, MAC, UUID, host, vf
from vfmigrate.cli import tables
from vfmigrate.errors import Unreachable
from vfmigrate.model.libvirt_facts import DefinedGuest
from vfmigrate.preflight.guest_list import ListedGuest, listed
from vfmigrate.preflight.snapshot import HostSnapshot

HOST = HostSnapshot("source", LIBVIRT, host("here", vf(1), HELD))
MARK = """\
<metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'><v:vf mac='{mac}' pool='data' {words}/></v:vfs></metadata>"""
ADDRESS_XML = "<address type='pci' domain='0x{0:04x}' bus='0x{1:02x}' slot='0x{2:02x}' function='0x{3:x}'/>"


def xml(words: str = "", devices: str = "") -> str:
    numbers = (ADDRESS.domain, ADDRESS.bus, ADDRESS.slot, ADDRESS.function)
    return f"""\
<domain type='kvm'>
  <name>g</name>
  <uuid>{UUID}</uuid>
  {MARK.format(mac=MAC, words=words)}
  <devices>
    <interface type='hostdev' managed='yes'>
      <mac address='{MAC}'/>
      <source>{ADDRESS_XML.format(*numbers)}</source>
    </interface>
    {devices}
  </devices>
</domain>
"""


def look(text: str, source: HostSnapshot = HOST, *, running: bool = True) -> Optional[ListedGuest]:
    return listed(
        DefinedGuest(text, "running" if running else "shut off", running), source, {"vfmigrate-data"}
    )


def the(text: str, source: HostSnapshot = HOST, *, running: bool = True) -> ListedGuest:
    found = look(text, source, running=running)
    assert found is not None
    return found


def line(guest: ListedGuest) -> str:
    return list(tables.guests([guest.plain()], None))[1]


def test_a_guest_that_can_leave_is_one_line() -> None:
    guest = the(xml("vlan='42'"))
    (only,) = guest.vfs
    assert (guest.name, guest.can_leave, guest.problems) == ("g", True, ())
    assert (only.mac, only.pool, only.vlan, only.strategy, only.vf) == (MAC, "data", 42, "vfio", str(ADDRESS))
    assert only.pf is not None
    assert line(guest).split() == ["g", "running", "vfio", "data", "42", only.pf, "yes"]


def test_what_keeps_a_guest_here_is_said_with_its_remedy() -> None:
    unready = replace(HOST, facts=host("here", vf(1), replace(HELD, migratable=False)))
    guest = the(xml(), unready)
    assert guest.can_leave is False
    assert "no: here: VF " in line(guest)
    assert "is not migratable" in line(guest)
    assert "; shut the guest down and start it again" in line(guest)


def test_a_warning_keeps_no_guest_here_and_is_shown() -> None:
    guest = the(xml("strategy='replug'"))
    assert guest.can_leave is True
    assert "yes: the VF with MAC" in line(guest)
    assert "run: vfmigrate migrate g DESTURI" in line(guest)


def test_a_remedy_names_no_destination_that_is_not_known() -> None:
    usb = "<hostdev mode='subsystem' type='usb'><source/></hostdev>"
    shown = line(the(xml(devices=usb)))
    assert "yes: here: hostdev of type usb of guest 'g'" in shown
    assert "make sure of that on the destination, or unplug it" in shown


def test_without_the_daemon_it_is_unknown_whether_a_guest_can_leave() -> None:
    blind = replace(HOST, facts=None, trouble=Unreachable("vfmigrated does not answer"))
    guest = the(xml("vlan='42'"), blind)
    assert guest.can_leave is None
    assert line(guest).split() == ["g", "running", "vfio", "data", "42", "-", "unknown"]


def test_a_guest_that_is_shut_off_is_not_judged() -> None:
    guest = the(xml(), running=False)
    assert (guest.can_leave, guest.problems, line(guest).split()[-1]) == (None, (), "-")


def test_an_interface_of_a_pools_network_is_a_vf_before_the_first_boot() -> None:
    network = """\
<domain type='kvm'><name>g</name><uuid>{uuid}</uuid><devices>
  <interface type='network'><mac address='{mac}'/><source network='{network}'/></interface>
</devices></domain>"""
    found = the(network.format(uuid=UUID, mac=MAC, network="vfmigrate-data"), running=False)
    assert [(each.mac, each.pool, each.vf) for each in found.vfs] == [(MAC, "data", None)]
    assert look(network.format(uuid=UUID, mac=MAC, network="default")) is None


def test_values_that_vfs_of_a_guest_share_are_shown_once() -> None:
    guest = the(xml())
    (only,) = guest.vfs
    several = replace(guest, vfs=(only, replace(only, vlan=42), replace(only, vlan=43)))
    assert line(several).split()[2:5] == ["vfio", "data", "-,42,43"]


def test_no_guest_with_a_vf_is_said() -> None:
    assert list(tables.guests([], 80)) == ["no guest has a VF"]
