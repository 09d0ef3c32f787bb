# SPDX-License-Identifier: GPL-2.0-or-later
"""How the VFs of a guest cross, read from its XML."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vfmigrate.domain.migrating_vf import MigratingVf, check_replug, migrating_vfs
from vfmigrate.errors import Refused
from vfmigrate.model import strategy
from vfmigrate.model.pci import PciAddress

XML = """\
<domain type='kvm'>
  <name>g</name>
  <uuid>11111111-1111-4111-8111-000000000001</uuid>
  <metadata>
    <v:vfs xmlns:v='urn:vfmigrate:domain:1'>
      <v:vf mac='52:54:00:00:00:02' pool='data' vlan='42' strategy='replug'/>
      <v:vf mac='52:54:00:00:00:03' pool='data'/>
      <v:vf mac='52:54:00:00:00:05' address='0000:01:00.4' strategy='replug'/>
    </v:vfs>
  </metadata>
  <devices>
    <interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/></interface>
    <interface type='hostdev' managed='yes'>
      <mac address='52:54:00:00:00:02'/>
      <source><address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x2'/></source>
      <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>
    </interface>
    <interface type='network'><mac address='52:54:00:00:00:03'/><source network='vfs'/></interface>
    <interface type='network'><mac address='52:54:00:00:00:09'/><source network='default'/></interface>
    <interface type='hostdev'>
      <mac address='52:54:00:00:00:04'/>
      <source><address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x3'/></source>
      <teaming type='transient' persistent='ua-x'/>
    </interface>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <source><address domain='0x0000' bus='0x01' slot='0x00' function='0x4'/></source>
    </hostdev>
  </devices>
</domain>
"""


def test_each_form_of_a_vf_is_read() -> None:
    assert [(one.mac, one.strategy.name, one.form, one.managed) for one in migrating_vfs(XML)] == [
        ("52:54:00:00:00:02", "replug", "interface", True),
        ("52:54:00:00:00:03", "vfio", "network", True),
        ("52:54:00:00:00:04", "failover", "interface", False),
        ("52:54:00:00:00:05", "replug", "hostdev", False),
    ]


def test_pool_vlan_and_slot_are_read() -> None:
    first, *_ = migrating_vfs(XML)
    assert (first.pool, first.vlan, first.slot) == ("data", 42, PciAddress(0, 5, 0, 0))
    check_replug("g", first, [first])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"mac": None}, "but its pool or its MAC is not known"),
        ({"pool": None}, "but its pool or its MAC is not known"),
        ({"slot": None}, "is at a PCI address where nothing can be unplugged"),
        ({"slot": PciAddress(0, 0, 3, 0)}, "is at a PCI address where nothing can be unplugged"),
    ],
)
def test_replug_without_pool_mac_or_slot_is_refused(changes: dict[str, object], told: str) -> None:
    good = MigratingVf("52:54:00:00:00:02", strategy.named("replug"), "data", slot=PciAddress(0, 5, 0, 0))
    with pytest.raises(Refused, match=told):
        check_replug("g", replace(good, **changes), [good])  # type: ignore[arg-type]  # what the parameters hold


def test_replug_of_vfs_that_share_a_mac_is_refused() -> None:
    vf = MigratingVf("52:54:00:00:00:02", strategy.named("replug"), "data", slot=PciAddress(0, 5, 0, 0))
    with pytest.raises(Refused, match="several VFs of guest 'g' have MAC 52:54:00:00:00:02"):
        check_replug("g", vf, [vf, replace(vf, slot=PciAddress(0, 6, 0, 0))])
