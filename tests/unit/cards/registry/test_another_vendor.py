# SPDX-License-Identifier: GPL-2.0-or-later
"""A vendor that is added in one file: found by the same look as the others, and its guests migrate."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.card import Card
from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.hardware import Hardware
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF, POOL, MakeRig, Rig
from vfmigrate import cards
from vfmigrate.cards import generic, registry
from vfmigrate.cards.registry import Vendors
from vfmigrate.config.configuration import Config
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciId

ACME = Hardware(
    vendor=0xAC3E,
    pf_device=0x0001,
    vf_device=0x0002,
    host_driver="acme",
    variant_driver="acme_vfio_pci",
    firmware="3.1",
    migration=False,  # its ports have no flag
)


@pytest.fixture
def vendors(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vendors]:
    """The vendors there are when Acme's module lies beside the others."""
    another = Path(__file__).parent / "another"
    monkeypatch.setattr(cards, "__path__", [*cards.__path__, str(another)])
    yield registry.discover()
    sys.modules.pop("vfmigrate.cards.acme", None)


def host(vendors: Vendors, hardware: Hardware = ACME) -> MemoryHost:
    return MemoryHost(card=Card((str(PF),), hardware=hardware), vendors=vendors)


@pytest.fixture
def rig(make_rig: MakeRig, vendors: Vendors) -> Rig:
    return make_rig(host(vendors))


def test_a_vendor_in_a_module_of_its_own_is_found(vendors: Vendors) -> None:
    assert vendors.of(PciId(0xAC3E, 0x0001)).load_driver == "modprobe acme"
    assert vendors.of(PciId(0xAC3E, 0x0003)) is generic.VENDOR


def test_a_guest_migrates_with_a_card_that_needs_no_flag(rig: Rig) -> None:
    here = rig.arrive(guest(1, ELSEWHERE))
    (claim,) = rig.store.all()
    state = rig.memory.host.observe(claim.vf)
    assert (state.migratable, claim.state) == (None, "plugged")
    assert state.switch_port is not None
    assert state.switch_port.tag == 42
    assert rig.converger.converge(claim.vf) == []
    assert rig.converger.survey(PF) == []
    rig.converger.check_ready(claim.vf)
    rig.leave(here)
    assert rig.store.all() == []
    assert rig.memory.ovs.ports == {}


def test_a_card_of_an_unknown_vendor_needs_a_variant_driver_only(make_rig: MakeRig, vendors: Vendors) -> None:
    unknown = replace(ACME, vendor=0x7777)
    rig = make_rig(host(vendors, unknown))
    rig.arrive(guest(1, ELSEWHERE))
    assert len(rig.store.all()) == 1


def test_a_card_that_lacks_the_flag_its_vendor_needs_is_refused(make_rig: MakeRig, vendors: Vendors) -> None:
    rig = make_rig(host(vendors, Hardware(migration=False)))
    with pytest.raises(Refused, match="cannot migrate its VFs"):
        rig.arrive(guest(1, ELSEWHERE))


def test_the_remedies_of_the_vendor_are_shown(make_rig: MakeRig, vendors: Vendors) -> None:
    rig = make_rig(host(vendors, replace(ACME, variant_driver=None)))
    with pytest.raises(Refused, match=r"no VFIO driver that can migrate VF .*; install acme-kmod"):
        rig.arrive(guest(1, ELSEWHERE))


THREE = [replace(ELSEWHERE, function=function) for function in (2, 3, 4)]


def test_a_guest_with_more_vfs_than_the_vendors_limit_is_refused(rig: Rig) -> None:
    with pytest.raises(
        Refused, match="has 3 VFs of pool 'data', and the cards of this host can migrate 2 at a time"
    ):
        rig.call("migrate", guest(1, *THREE))


def test_max_migrating_of_the_pool_overrides_the_vendors_limit(make_rig: MakeRig, vendors: Vendors) -> None:
    rig = make_rig(host(vendors), Config({"data": replace(POOL, max_migrating=3)}))
    rig.arrive(guest(1, *THREE))
    assert len(rig.store.all()) == 3
