# SPDX-License-Identifier: GPL-2.0-or-later
"""VFs that are to be plugged into guests that came without: in time, again and again, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from lxml import etree

from tests.fakes.rig import Rig
from vfmigrate.claims.claim_store import PLUGGED, RESERVED, Claim
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.domain import domain_xml
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import HostError
from vfmigrate.model.pci import PciAddress
from vfmigrate.strategies.replug import arrivals
from vfmigrate.strategies.replug.arrivals import ATTEMPTS, PATIENCE, Arrivals

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor  # imports libvirt-python

POOL = Pool("data", (PciAddress(0, 1, 0, 0),), "br-data", vlan=42)
DOMAIN = "00000000-0000-4000-8000-000000000001"
MAC = "52:54:00:00:00:02"
SLOT = "0000:05:00.0"


class Libvirt:
    """One guest, as libvirt tells of it; plugging in fails as often as told."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.running = False
        self.busy = False
        self.vf = False
        self.failures = 0
        self.plugged: list[str] = []
        self.metadata = Mark(mac=MAC, pool="data", strategy="replug")

    def marks(self, uuid: str) -> tuple[Mark, ...]:
        assert uuid == DOMAIN
        return (Mark(mac="52:54:00:00:00:99", pool="data", strategy="vfio"), self.metadata)

    def executing(self) -> frozenset[str]:
        return frozenset({DOMAIN} if self.running else ())

    def migrating(self, _uuid: str) -> bool:
        return self.busy

    def has_vf(self, _uuid: str, mac: str, _vf: PciAddress) -> bool:
        assert mac == MAC
        return self.vf

    def plug(self, uuid: str, xml: str) -> None:
        assert uuid == DOMAIN
        assert self._rig.memory.ovs.ports, "the port is there before the guest's driver looks for a link"
        self.plugged.append(xml)
        if self.failures:
            self.failures -= 1
            raise HostError("libvirt: plugging a VF in: no room")
        self.vf = True


class ArrivalsRig(Rig):
    """The rig with arrivals."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, config=Config({"data": POOL}))
        self.libvirt = Libvirt(self)
        self.settled: list[str] = []
        self.arrivals = Arrivals(
            self.services,
            cast("Hypervisor", self.libvirt),
            on_plugged=self.settled.append,
        )

    def claim(self, **changes: Any) -> Claim:
        told = {"state": RESERVED, "incoming": True, "expires": None, "strategy": "replug", **changes}
        return self.store.put(
            Claim(self.memory.vfs[2], "data", DOMAIN, "g", since=0.0, mac=MAC, vlan=42, slot=SLOT, **told)
        )

    def only(self) -> Claim:
        (claim,) = self.store.all()
        return claim


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[ArrivalsRig]:
    with ArrivalsRig(tmp_path) as rig:
        yield rig


def test_the_vf_is_plugged_in_when_the_guest_runs(rig: ArrivalsRig) -> None:
    rig.claim()
    rig.arrivals.look()
    assert rig.libvirt.plugged == []
    rig.libvirt.running = rig.libvirt.busy = True
    rig.arrivals.look()
    claim = rig.only()
    assert (claim.state, claim.slot, claim.expires, claim.incoming) == (PLUGGED, None, None, True)
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [42]
    assert rig.settled == [DOMAIN]
    rig.arrivals.look()
    assert len(rig.libvirt.plugged) == 1


@pytest.mark.parametrize("change", [{"mac": "52:54:00:00:00:03"}, {"pool": "other"}, {"strategy": "vfio"}])
def test_a_guest_whose_metadata_does_not_name_the_vf_gets_none(
    rig: ArrivalsRig, change: dict[str, str]
) -> None:
    rig.claim()
    rig.libvirt.metadata = replace(rig.libvirt.metadata, **change)  # type: ignore[arg-type]  # texts only
    rig.libvirt.running = True
    rig.arrivals.look()
    assert (rig.libvirt.plugged, rig.store.all(), rig.memory.ovs.ports) == ([], [], {})


def test_the_device_has_the_same_mac_and_guest_address(rig: ArrivalsRig) -> None:
    claim = rig.claim()
    xml = arrivals.device(claim)
    addresses = [dict(each.attrib) for each in etree.fromstring(xml).iter("address")]
    assert addresses[1] == {
        "type": "pci",
        "domain": "0x0000",
        "bus": "0x05",
        "slot": "0x00",
        "function": "0x0",
    }
    (interface,) = domain_xml.read(
        f"<domain><uuid>{DOMAIN}</uuid><name>g</name><devices>{xml}</devices></domain>"
    ).interfaces
    assert (interface.mac, interface.address, interface.managed) == (MAC, claim.vf, True)


REST = (
    "<driver model='mlx5_vfio_pci'/><acpi index='7'/><boot order='2'/><rom bar='off'/><alias name='ua-nic'/>"
)
PLACE = "<address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>"
SOURCE = "<source><address type='pci' domain='0x0000' bus='0x81' slot='0x00' function='0x2'/></source>"


@pytest.mark.parametrize("plain", [False, True])
def test_the_device_is_the_one_that_the_guest_had_with_another_vf(rig: ArrivalsRig, plain: bool) -> None:
    """By its ACPI index the guest's system names the NIC."""
    before = (
        f"<hostdev mode='subsystem' type='pci' managed='no'>{SOURCE}{REST}{PLACE}</hostdev>"
        if plain
        else f"<interface type='hostdev' managed='yes'><mac address='{MAC}'/>{SOURCE}{REST}{PLACE}</interface>"
    )
    claim = rig.claim()
    rig.libvirt.metadata = replace(rig.libvirt.metadata, device=before)
    rig.libvirt.running = True
    rig.arrivals.look()
    here = f"bus='0x{claim.vf.bus:02x}' slot='0x{claim.vf.slot:02x}' function='0x{claim.vf.function:x}'"
    assert rig.libvirt.plugged == [before.replace("bus='0x81' slot='0x00' function='0x2'", here)]
    assert (rig.only().set_mac, rig.only().managed) == (plain, not plain)


def test_a_failed_plug_is_repeated_at_growing_intervals(rig: ArrivalsRig) -> None:
    rig.claim()
    rig.libvirt.running, rig.libvirt.failures = True, 2
    times = []
    for _ in range(60):
        before = len(rig.libvirt.plugged)
        rig.arrivals.look()
        if len(rig.libvirt.plugged) > before:
            times.append(rig.now)
        rig.now += 1
    assert times == [1000.0, 1005.0, 1015.0]
    assert rig.only().state == PLUGGED


def test_a_guest_without_its_vf_is_reported(rig: ArrivalsRig) -> None:
    claim = rig.claim()
    rig.libvirt.running, rig.libvirt.failures = True, ATTEMPTS
    assert rig.arrivals.missing(claim) is None
    rig.arrivals.look()
    assert rig.arrivals.missing(claim) == "libvirt: plugging a VF in: no room (tried again in 5 s)"
    assert rig.only().state == RESERVED
    assert rig.memory.ovs.ports == {}


def test_attempts_end_until_a_reconcile_starts_them_again(rig: ArrivalsRig) -> None:
    claim = rig.claim()
    rig.libvirt.running, rig.libvirt.failures = True, 1000
    for _ in range(1000):
        rig.arrivals.look()
        rig.now += 1
    assert len(rig.libvirt.plugged) == ATTEMPTS
    assert "given up" in (rig.arrivals.missing(claim) or "")
    rig.libvirt.failures = 0
    rig.arrivals.try_again()
    rig.arrivals.look()
    assert rig.only().state == PLUGGED
    assert rig.arrivals.missing(rig.only()) is None


def test_a_request_in_the_middle_of_a_look_is_for_the_next(rig: ArrivalsRig) -> None:
    """Two threads must not change what was tried at the same time."""
    rig.claim()
    rig.libvirt.running, rig.libvirt.failures = True, 1000
    rig.arrivals.look()
    (executing, tried) = rig.libvirt.executing, len(rig.libvirt.plugged)

    def ask_meanwhile() -> frozenset[str]:
        rig.arrivals.try_again()
        return executing()

    rig.libvirt.executing = ask_meanwhile  # type: ignore[method-assign]  # the moment in between
    rig.arrivals.look()
    assert len(rig.libvirt.plugged) == tried
    rig.libvirt.executing = executing  # type: ignore[method-assign]
    rig.arrivals.look()
    assert len(rig.libvirt.plugged) == tried + 1


def test_the_source_plugs_the_vf_in_when_the_command_is_gone(rig: ArrivalsRig) -> None:
    """Only when it must have died, and libvirt is not at it either, is the VF put back from here."""
    rig.claim(state=PLUGGED, incoming=False)
    rig.libvirt.running = True
    rig.now += PATIENCE - 1
    rig.arrivals.look()
    rig.libvirt.busy = True
    rig.now += 2
    rig.arrivals.look()
    assert rig.libvirt.plugged == []
    rig.libvirt.busy = False
    rig.arrivals.look()
    assert rig.libvirt.vf
    assert rig.only().slot is None


def test_the_source_forgets_a_vf_that_is_plugged_in_again(rig: ArrivalsRig) -> None:
    rig.claim(state=PLUGGED, incoming=False)
    rig.libvirt.running = rig.libvirt.vf = True
    rig.now += PATIENCE
    rig.arrivals.look()
    assert (rig.only().state, rig.only().slot, rig.libvirt.plugged) == (PLUGGED, None, [])


def test_the_reservation_is_dropped_when_the_guest_got_another_vf(rig: ArrivalsRig) -> None:
    rig.claim()
    rig.libvirt.running = rig.libvirt.vf = True
    rig.arrivals.look()
    assert rig.store.all() == []
