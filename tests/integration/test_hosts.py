# SPDX-License-Identifier: GPL-2.0-or-later
"""The namespace hosts themselves, without vfmigrate: what libvirt calls when, and what it does to a VF.

These are the facts about libvirt that the product builds on (docs/testing.md); a new libvirt that does otherwise
fails here first.
"""

from __future__ import annotations

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.pair import Pair

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
START = ["prepare begin -", "start begin -", "started begin -"]


def test_migration_calls_the_hook_in_order(pair: Pair) -> None:
    pair.a.start_guest(Guest("plain"))
    assert pair.a.hooks.operations() == START
    pair.a.hooks.clear()

    assert pair.a.migrate("plain", pair.b).status == 0

    assert pair.b.hooks.operations() == ["migrate begin -", *START]
    assert pair.a.hooks.operations() == ["stopped end -", "release end migrated"]
    assert pair.b.hooks.calls()[-1].time < pair.a.hooks.calls()[0].time
    assert (pair.a.host.domains(), pair.b.host.domains()) == ({}, {"plain": "running"})


@pytest.mark.parametrize("form", ["hostdev", "interface"])
def test_libvirt_binds_the_variant_driver_and_gives_the_vf_back(pair: Pair, form: str) -> None:
    vf = pair.a.vf(1)
    pair.a.start_guest(Guest("g", [Vf(vf, MAC, form=form)]))
    assert pair.a.card.function(vf).driver == "mlx5_vfio_pci"

    pair.a.host.virsh("destroy", "g")
    assert pair.a.card.function(vf).driver is None
    assert pair.a.card.function(vf).driver_override is None


def test_libvirt_sets_the_mac_of_an_interface_and_resets_it(pair: Pair) -> None:
    pair.a.start_guest(Guest("g", [Vf(pair.a.vf(1), MAC)]))
    assert pair.a.port(1).hw_addr == MAC

    pair.a.host.virsh("destroy", "g")
    assert pair.a.port(1).hw_addr == "00:00:00:00:00:00"
