# SPDX-License-Identifier: GPL-2.0-or-later
"""The namespace hosts without vfmigrate: when libvirt calls which hook, and what it does to a VF.

vfmigrate depends on these facts about libvirt (docs/testing.md); a new libvirt that behaves differently fails here
first.
"""

from __future__ import annotations

import pytest

from tests.integration.events import Events
from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import AFTER, BEFORE
from tests.integration.pair import Pair
from tests.testbed.run import CommandError

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


def test_the_vf_of_a_network_is_in_the_hooks_xml_only_while_the_guest_starts(pair: Pair) -> None:
    pair.a.make_network("data")
    pair.a.start_guest(Guest("g", [Vf(pair.a.vf(0), MAC, form="network")]))
    pair.a.host.virsh("destroy", "g")
    shown = {call.operation: "<interface type='hostdev'" in call.xml for call in pair.a.hooks.calls()}
    assert shown == {"prepare": False, "start": True, "started": True, "stopped": False, "release": False}


def test_libvirt_runs_every_script_even_when_the_first_refuses(pair: Pair) -> None:
    pair.a.start_guest(Guest("g"))
    pair.b.hooks.refuse("migrate", "no", BEFORE)
    assert pair.a.migrate("g", pair.b).status != 0
    assert pair.b.hooks.operations(AFTER) == ["migrate begin -"]


@pytest.mark.parametrize("stage", ["prepare", "start", "started"])
def test_libvirt_calls_stopped_after_a_refused_start(pair: Pair, stage: str) -> None:
    pair.a.hooks.refuse(stage, "no")
    with pytest.raises(CommandError):
        pair.a.start_guest(Guest("g"))
    assert pair.a.hooks.operations()[-2:] == ["stopped end -", "release end failed"]


def test_a_hook_that_fails_at_reconnect_kills_the_guest(pair: Pair) -> None:
    pair.a.start_guest(Guest("g"))
    pair.a.hooks.refuse("reconnect", "no")
    pair.a.restart_libvirtd()
    pair.a.hooks.wait_for("release")
    assert pair.a.host.domains() == {}


def test_libvirt_sends_these_events_for_a_migration(pair: Pair) -> None:
    pair.a.start_guest(Guest("g"))
    with Events(pair.a.host) as source, Events(pair.b.host) as target:
        assert pair.a.migrate("g", pair.b).status == 0
        target.wait_for("resumed migrated")
        source.wait_for("stopped migrated")
    assert source.seen() == ["suspended migrated", "stopped migrated"]
    assert target.seen() == ["started migrated", "resumed migrated"]


def test_libvirt_sends_these_events_for_a_migration_that_is_rolled_back(pair: Pair) -> None:
    """Either QEMU resumes the source ("unpaused"), or libvirt does, with the event of a success."""
    for node in (pair.a, pair.b):
        node.make_network("data")
    pair.a.start_guest(Guest("g", [Vf(pair.a.vf(0), MAC, form="network")]))
    pair.b.set_unmigratable(True)
    with Events(pair.a.host) as source, Events(pair.b.host) as target:
        assert pair.a.migrate("g", pair.b).status != 0
        source.wait_for("resumed unpaused", "resumed migrated")
        target.wait_for("stopped failed")
    assert source.seen()[0] == "suspended migrated"
    assert "stopped migrated" not in source.seen()
    assert target.seen() == ["started migrated", "stopped failed"]
