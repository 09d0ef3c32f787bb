# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims and metadata follow the domains that run, on a host in memory with a libvirt that only remembers."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.guest_xml import ELSEWHERE, STANDBY, guest, paired
from tests.fakes.rig import PF, POOL
from tests.unit.daemon.sync_rig import SyncRig, arrived, plug_by_hand
from vfmigrate.claims import claim_store
from vfmigrate.config import setting
from vfmigrate.config.configuration import Config
from vfmigrate.domain import domain_xml
from vfmigrate.domain.metadata import Mark
from vfmigrate.rules import failover_pair


@pytest.mark.parametrize("look", ["reconcile", "follow"])
def test_a_guest_that_ended_while_libvirt_was_asked_is_not_adopted(sync_rig: SyncRig, look: str) -> None:
    """As a libvirtd that comes back from a crash: it lists the domain, and then ends it."""
    before = sync_rig.memory.host.survey(PF)
    xml = guest(1, sync_rig.memory.vfs[0])
    uuid = sync_rig.start(xml)

    def end() -> None:
        sync_rig.libvirt.meanwhile = lambda: None  # once: a second end would take away what the first left
        sync_rig.now += 0.1
        for operation in ("stopped", "release"):
            sync_rig.hook_handler.handle(operation, "end", "daemon", xml)

    sync_rig.libvirt.meanwhile = end
    sync_rig.reconciler.reconcile() if look == "reconcile" else sync_rig.domain_sync.follow(uuid)
    assert sync_rig.store.all() == []
    assert sync_rig.memory.host.survey(PF) == before
    sync_rig.now += 1
    sync_rig.reconciler.reconcile()
    assert [claim.domain for claim in sync_rig.store.all()] == [
        uuid
    ]  # libvirt reports it again: it was started again


def test_metadata_and_definition_of_an_arrived_guest_are_updated(sync_rig: SyncRig) -> None:
    uuid = arrived(sync_rig)
    sync_rig.libvirt.definitions[uuid] = guest(1, ELSEWHERE)
    sync_rig.libvirt.refusals = 1  # the migration still holds the domain
    sync_rig.domain_sync.settle(uuid)
    (mark,) = sync_rig.libvirt.stamps[uuid]
    (claim,) = sync_rig.store.all()
    assert mark == Mark(
        mac="52:54:00:00:01:00",
        address=claim.vf,
        pool="data",
        vlan=42,
        strategy="vfio",
        psid="MT_0000000892",
        firmware="28.42.1000",
        msix=11,
        pf=PF,
    )
    (defined,) = sync_rig.libvirt.defined
    assert domain_xml.read(defined).interfaces[0].address == claim.vf
    assert not claim.incoming


def test_the_definition_of_a_guest_that_started_here_is_not_touched(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    sync_rig.libvirt.definitions[uuid] = guest(1, sync_rig.memory.vfs[1])
    sync_rig.domain_sync.settle(uuid)
    assert sync_rig.libvirt.defined == []
    assert uuid in sync_rig.libvirt.stamps


def test_a_vf_that_was_hot_plugged_gets_claim_port_and_metadata(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    sync_rig.change(guest(1, *sync_rig.memory.vfs[:2]))
    assert sync_rig.domain_sync.follow(uuid)[0] == f"guest 'guest1' was given {sync_rig.memory.vfs[1]}"
    assert [claim.vf for claim in sync_rig.store.of_domain(uuid)] == sync_rig.memory.vfs[:2]
    assert [port.tag for port in sync_rig.memory.ovs.ports.values()] == [42, 42]
    assert [mark.address for mark in sync_rig.libvirt.stamps[uuid]] == sync_rig.memory.vfs[:2]
    assert sync_rig.domain_sync.follow(uuid) == []


def test_an_unplugged_vf_is_free_and_its_vlan_stays_in_the_metadata(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(guest(1, *sync_rig.memory.vfs[:2]))
    with_both = guest(1, *sync_rig.memory.vfs[:2])
    end = with_both.index("</interface>") + len("</interface>")
    sync_rig.change(with_both[:end] + "</devices></domain>")
    changes = sync_rig.domain_sync.follow(uuid)
    assert changes[0] == f"guest 'guest1' released {sync_rig.memory.vfs[1]}"
    assert sync_rig.unplugged == ["52:54:00:00:01:01"]
    assert [claim.vf for claim in sync_rig.store.all()] == sync_rig.memory.vfs[:1]
    assert len(sync_rig.memory.ovs.ports) == 1
    held, left = sync_rig.libvirt.stamps[uuid]
    assert (held.address, held.psid) == (sync_rig.memory.vfs[0], "MT_0000000892")
    assert left == Mark(mac="52:54:00:00:01:01", pool="data", vlan=42)


def test_a_vf_that_is_plugged_in_late_gets_its_expired_claim(sync_rig: SyncRig) -> None:
    """As when vdsm's plugin has claimed a VF that vdsm is about to plug in."""
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    (claim,) = sync_rig.store.all()
    sync_rig.store.change(claim, expires=sync_rig.now + 100)
    sync_rig.change(guest(1))
    assert sync_rig.domain_sync.follow(uuid) == []
    assert sync_rig.store.get(claim.vf) is not None


def test_a_vf_that_is_unplugged_for_a_migration_stays_claimed(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    (claim,) = sync_rig.store.all()
    sync_rig.store.change(claim, strategy="replug", slot="0000:05:00.0")
    sync_rig.change(guest(1))
    assert sync_rig.domain_sync.follow(uuid) == []
    sync_rig.now += 20
    sync_rig.reconciler.reconcile()
    assert sync_rig.store.get(claim.vf) is not None


def test_unreadable_metadata_is_replaced(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    sync_rig.change(guest(1, sync_rig.memory.vfs[0]).replace("vlan='42'", "vlan='many'"))
    sync_rig.domain_sync.settle(uuid)
    assert [mark.vlan for mark in sync_rig.libvirt.stamps[uuid]] == [42]


def test_metadata_that_is_right_is_not_written_again(sync_rig: SyncRig) -> None:
    xml = guest(
        1,
        sync_rig.memory.vfs[0],
        marks=f"address='{sync_rig.memory.vfs[0]}' pool='data' vlan='42' strategy='vfio' "
        "psid='MT_0000000892' firmware='28.42.1000' msix='11' pf='0000:01:00.0'",
    )
    uuid = sync_rig.start(xml)
    sync_rig.domain_sync.settle(uuid)
    assert sync_rig.libvirt.stamps == {}


def test_a_plain_hostdev_is_found_in_its_definition_by_the_address_that_it_had(sync_rig: SyncRig) -> None:
    address = "<address domain='0x0000' bus='0x81' slot='0x00' function='0x2'/>"
    device = f"<hostdev mode='subsystem' type='pci' managed='yes'><source>{address}</source></hostdev>"
    marked = guest(1).replace("</v:vfs>", f"<v:vf address='{ELSEWHERE}' pool='data' vlan='42'/></v:vfs>")
    xml = marked.replace("<devices>", f"<devices>{device}")
    rewritten = sync_rig.hook_handler.handle("migrate", "begin", "-", xml)
    assert rewritten is not None
    uuid = sync_rig.start(rewritten)
    sync_rig.libvirt.definitions[uuid] = xml
    sync_rig.domain_sync.settle(uuid)
    (claim,) = sync_rig.store.all()
    (defined,) = sync_rig.libvirt.defined
    (interface,) = domain_xml.read(defined).interfaces
    assert interface.address == claim.vf
    assert interface.mark == Mark(address=claim.vf, pool="data", vlan=42)


def test_the_definition_of_a_restored_guest_is_not_changed(sync_rig: SyncRig) -> None:
    other = sync_rig.start(guest(2, sync_rig.memory.vfs[0]))
    saved = guest(1, sync_rig.memory.vfs[0])
    rewritten = sync_rig.hook_handler.handle("restore", "begin", "-", saved)
    assert rewritten is not None
    uuid = sync_rig.start(rewritten)
    sync_rig.libvirt.definitions[uuid] = saved
    sync_rig.domain_sync.settle(uuid)
    assert sync_rig.libvirt.defined == []
    assert [claim.vf for claim in sync_rig.store.of_domain(other)] == [sync_rig.memory.vfs[0]]


def test_the_metadata_of_a_vf_that_was_not_plugged_in_again_is_updated(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(paired(sync_rig.memory.vfs[0]))
    (claim,) = sync_rig.store.all()
    sync_rig.libvirt.moving = {uuid}
    sync_rig.domain_sync.plug_again(claim)
    for thread in threading.enumerate():
        if thread.name == "plug-again":
            thread.join()
    assert sync_rig.libvirt.plugged == []  # a migration plugs it in itself
    sync_rig.libvirt.moving = set()
    sync_rig.domain_sync.plug_again(claim)
    assert sync_rig.libvirt.did_plug.wait(10)
    (device,) = sync_rig.libvirt.plugged
    assert device == (
        "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:01:00'/><source><address type='pci' "
        "domain='0x0000' bus='0x01' slot='0x00' function='0x2'/></source>"
        "<teaming type='transient' persistent='ua-x'/></interface>"
    )


TEAMING = "</source><teaming type='transient' persistent='ua-x'/>"


def test_the_claim_on_a_vf_follows_when_its_standby_is_added_or_removed(sync_rig: SyncRig) -> None:
    vf = sync_rig.memory.vfs[0]
    uuid = sync_rig.start(guest(1, vf))
    assert list(sync_rig.memory.ovs.ports)
    plug_by_hand(sync_rig, uuid, ("</devices>", f"{STANDBY}</devices>"))
    assert [claim.strategy for claim in sync_rig.store.all()] == ["failover"]
    assert sync_rig.memory.ovs.ports == {}  # the guest is on its standby
    sync_rig.memory.card.set_bus_master(str(vf), True)
    plug_by_hand(sync_rig, uuid, ("</source>", TEAMING))
    assert [claim.strategy for claim in sync_rig.store.all()] == ["failover"]
    plug_by_hand(sync_rig, uuid, (TEAMING, "</source>"), (STANDBY, ""))
    assert [claim.strategy for claim in sync_rig.store.all()] == ["vfio"]
    assert len(sync_rig.memory.ovs.ports) == 1


def test_a_vf_plugged_in_by_hand_is_claimed(sync_rig: SyncRig) -> None:
    first, second = sync_rig.memory.vfs[:2]
    uuid = sync_rig.start(guest(1, first))
    old, new = (f"function='{vf.function:#x}'" for vf in (first, second))
    plug_by_hand(sync_rig, uuid, (old, new))
    assert [(claim.vf, claim.mac) for claim in sync_rig.store.all()] == [(second, "52:54:00:00:01:00")]
    assert len(sync_rig.memory.ovs.ports) == 1


def test_the_vlans_of_an_open_trunk_travel_with_the_guest(tmp_path: Path) -> None:
    """Only the source's bridge has seen in which VLANs the guest sends."""
    mac = "52:54:00:00:01:00"
    config = Config({"data": replace(POOL, vlans=setting.ALL_VLANS)})
    with SyncRig(tmp_path, config=config) as source:
        uuid = source.start(guest(1, source.memory.vfs[0], marks="pool='data'"))
        source.memory.ovs.seen = {mac: {42}}
        source.now += 20
        source.reconciler.reconcile()
        source.memory.ovs.seen = {mac: {43}}  # the bridge has forgotten the other one
        source.reconciler.reconcile()
        marks = source.libvirt.stamps[uuid]
        assert [mark.seen_in for mark in marks] == [(42, 43)]
        source.libvirt.stamps.clear()
        source.reconciler.reconcile()
        assert source.libvirt.stamps == {}
        arriving = guest(1, ELSEWHERE, marks="pool='data' seen-in='42 43'")
        source.leave(guest(1, source.memory.vfs[0], marks="pool='data'"))
        source.arrive(arriving)
        (claim,) = source.store.all()
        assert (claim.is_open_trunk, claim.seen_in) == (True, (42, 43))
        assert claim_store.decode(claim_store.encode(claim)) == claim


def test_the_device_of_a_pair_is_kept_and_comes_back_whole(sync_rig: SyncRig) -> None:
    mac, rest = "52:54:00:00:01:00", "<acpi index='7'/>"
    xml = paired(sync_rig.memory.vfs[0]).replace("</source>", f"</source>{rest}", 1)
    uuid = sync_rig.start(xml)
    sync_rig.domain_sync.settle(uuid)
    (mark,) = sync_rig.libvirt.stamps[uuid]
    assert mark.device is not None
    assert rest in mark.device
    without = domain_xml.read(paired(sync_rig.memory.vfs[0]))
    kept = replace(without, marks=(mark,))
    back = failover_pair.transient_device(kept, mac, sync_rig.memory.vfs[1], plain=False, managed=True)
    assert rest in back
    assert domain_xml.read(guest(1, extra=back)).interfaces[0].address == sync_rig.memory.vfs[1]
    other = replace(without, marks=(replace(mark, device=mark.device.replace("ua-x", "ua-y")),))
    made = failover_pair.transient_device(other, mac, sync_rig.memory.vfs[1], plain=False, managed=True)
    assert "ua-x" in made


def test_the_device_of_a_vf_that_migrates_with_its_state_is_not_kept(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    sync_rig.domain_sync.settle(uuid)
    assert [mark.device for mark in sync_rig.libvirt.stamps[uuid]] == [None]


ARRIVES_BY = "91c3b0a7d2e84f16"


def traced(xml: str, trace: str = ARRIVES_BY) -> str:
    """A domain whose metadata names its migration."""
    mark = f"<t:migration xmlns:t='urn:vfmigrate:trace:1' id='{trace}' host='host-a'/>"
    return xml.replace("<metadata>", f"<metadata>{mark}", 1)


def test_a_guest_that_arrives_is_logged_under_one_id_and_gets_the_next(
    sync_rig: SyncRig, capsys: pytest.CaptureFixture[str]
) -> None:
    rewritten = sync_rig.call("migrate", traced(guest(1, ELSEWHERE)))
    assert rewritten is not None
    uuid = sync_rig.start(rewritten)
    assert sync_rig.log.traces.of(uuid) == ARRIVES_BY
    assert [claim.trace for claim in sync_rig.store.all()] == [ARRIVES_BY]
    sync_rig.libvirt.arrivals[uuid] = {"downtime": 212, "time_elapsed": 7200}
    sync_rig.domain_sync.settle(uuid)
    assert (
        "arrived: guest 'guest1' has arrived: downtime 212 ms, migrated in 7.2 s" in capsys.readouterr().err
    )
    following = sync_rig.libvirt.traces[uuid]
    assert following.id != ARRIVES_BY
    assert [claim.trace for claim in sync_rig.store.all()] == [None]
    sync_rig.change(traced(rewritten.replace(ARRIVES_BY, following.id), following.id))
    sync_rig.libvirt.traces.clear()
    sync_rig.domain_sync.settle(uuid)
    assert sync_rig.libvirt.traces == {}  # it stays until the guest has migrated by it
    assert "has arrived" not in capsys.readouterr().err


def test_a_guest_that_leaves_is_logged_under_the_id_in_its_metadata(sync_rig: SyncRig) -> None:
    xml = guest(1, sync_rig.memory.vfs[0])
    uuid = sync_rig.start(xml)
    assert sync_rig.log.traces.of(uuid) is None
    sync_rig.leave(traced(xml))
    assert sync_rig.log.traces.of(uuid) == ARRIVES_BY


def test_a_guest_that_is_started_here_is_in_no_migration_whatever_its_definition_says(
    sync_rig: SyncRig,
) -> None:
    uuid = sync_rig.start(traced(guest(1, sync_rig.memory.vfs[0])))
    assert sync_rig.log.traces.of(uuid) is None


def test_a_guest_whose_last_vf_was_unplugged_keeps_no_name_of_a_next_migration(sync_rig: SyncRig) -> None:
    xml = guest(1, sync_rig.memory.vfs[0])
    uuid = sync_rig.start(xml)
    sync_rig.domain_sync.settle(uuid)
    sync_rig.change(traced(xml, sync_rig.libvirt.traces[uuid].id))
    for claim in sync_rig.store.all():
        sync_rig.store.drop(claim)
    sync_rig.domain_sync.settle(uuid)
    assert uuid not in sync_rig.libvirt.traces
