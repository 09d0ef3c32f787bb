# SPDX-License-Identifier: GPL-2.0-or-later
"""Reconciling on a host in memory, with a libvirt that only remembers."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional

import pytest

from tests.fakes.card import Card
from tests.fakes.counted import counted
from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF, POOL
from tests.unit.daemon.sync_rig import SyncRig, arrived
from vfmigrate import journal
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.ovs.openvswitch import PortSettings


def test_reconciling_twice_changes_nothing(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    assert sync_rig.reconciler.reconcile() == []


def test_a_reservation_expires(sync_rig: SyncRig) -> None:
    sync_rig.hook_handler.handle("migrate", "begin", "-", guest(1, ELSEWHERE))
    sync_rig.now += 119
    assert sync_rig.reconciler.reconcile() == []
    sync_rig.now += 2
    (change,) = sync_rig.reconciler.reconcile()
    assert (
        change
        == f"dropped the claim of guest 'guest1' on {sync_rig.memory.vfs[-1]}: it expired before the guest started"
    )
    assert sync_rig.store.all() == []


def test_a_claim_that_a_late_guest_renews_at_the_same_moment_is_not_dropped(sync_rig: SyncRig) -> None:
    sync_rig.hook_handler.handle("prepare", "begin", "-", guest(1, sync_rig.memory.vfs[0]))
    sync_rig.now += 121
    (late,) = sync_rig.store.all()
    renewed: list[Optional[Claim]] = []
    starting = threading.Thread(target=lambda: renewed.append(sync_rig.store.change(late, expires=None)))
    every_claim = sync_rig.store.all

    def start_meanwhile() -> list[Claim]:
        claims = every_claim()
        if starting.ident is None:
            starting.start()
            starting.join(0.2)  # it may have to wait for the reconcile
        return claims

    sync_rig.store.all = start_meanwhile  # type: ignore[method-assign]  # the moment in between
    sync_rig.reconciler.reconcile()
    starting.join(10)
    assert renewed == [None] or sync_rig.store.get(late.vf) == renewed[0]


def test_the_claim_of_a_guest_that_is_gone_is_dropped(sync_rig: SyncRig) -> None:
    before = sync_rig.memory.host.survey(PF)
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    assert sync_rig.libvirt.domains is not None
    del sync_rig.libvirt.domains[uuid]
    assert sync_rig.reconciler.reconcile() == []  # it may be about to appear
    sync_rig.now += 20
    changes = sync_rig.reconciler.reconcile()
    assert (
        changes[0]
        == f"dropped the claim of guest 'guest1' on {sync_rig.memory.vfs[0]}: the guest does not run here"
    )
    assert sync_rig.memory.host.survey(PF) == before


def test_no_claim_is_dropped_while_libvirt_does_not_answer(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    sync_rig.libvirt.domains = None
    sync_rig.now += 1000
    assert sync_rig.reconciler.reconcile() == []


def test_a_guest_about_which_libvirt_does_not_answer_is_not_gone(sync_rig: SyncRig) -> None:
    """As while libvirt waits for the guest's QEMU: it was taken for one that had ended, and lost its VF."""
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    other = sync_rig.start(guest(2, sync_rig.memory.vfs[1]))
    assert sync_rig.libvirt.domains is not None
    del sync_rig.libvirt.domains[other]
    sync_rig.libvirt.silent.add(uuid)
    sync_rig.now += 1000
    assert "guest 'guest2'" in sync_rig.reconciler.reconcile()[0]
    assert [claim.domain for claim in sync_rig.store.all()] == [uuid]


def test_running_guests_are_adopted(sync_rig: SyncRig) -> None:
    xml = guest(1, sync_rig.memory.vfs[0])
    sync_rig.change(xml)
    assert sync_rig.reconciler.reconcile()[0] == f"adopted {sync_rig.memory.vfs[0]} of guest 'guest1'"
    assert len(sync_rig.memory.ovs.ports) == 1
    assert sync_rig.reconciler.reconcile() == []


def test_an_orphaned_port_is_removed_and_the_port_of_a_guest_stays(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    (kept,) = sync_rig.memory.ovs.ports
    sync_rig.memory.ovs.plug("br-data", "vanished0", "claim-of-long-ago", PortSettings())
    assert sync_rig.reconciler.reconcile() == ["unplugged vanished0 from br-data: its guest is gone"]
    assert list(sync_rig.memory.ovs.ports) == [kept]


def test_a_port_that_another_program_removed_is_plugged_again(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    (port,) = list(sync_rig.memory.ovs.ports)
    del sync_rig.memory.ovs.ports[port]
    assert sync_rig.reconciler.reconcile() == [f"plugged {port} into br-data with tag 42"]


def test_a_reconcile_takes_no_claim_from_another_guest(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    other = guest(2, sync_rig.memory.vfs[0])
    sync_rig.change(other)
    sync_rig.reconciler.reconcile()
    (claim,) = sync_rig.store.all()
    assert (claim.domain_name, claim.state) == ("guest1", claim_store.PLUGGED)


def test_a_vf_that_was_unplugged_without_an_event_is_free_after_a_reconcile(sync_rig: SyncRig) -> None:
    uuid = sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    sync_rig.change(guest(1))
    assert sync_rig.reconciler.reconcile() == []  # it may be about to be plugged in
    sync_rig.now += 20
    assert sync_rig.reconciler.reconcile()[0] == f"guest 'guest1' released {sync_rig.memory.vfs[0]}"
    assert sync_rig.store.of_domain(uuid) == []


def test_a_stopped_network_of_a_pool_is_started(sync_rig: SyncRig) -> None:
    del sync_rig.libvirt.live["vfmigrate-data"]
    assert sync_rig.reconciler.reconcile() == ["started libvirt network vfmigrate-data"]
    assert sync_rig.reconciler.reconcile() == []


def test_the_port_of_a_renamed_representor_is_replaced(sync_rig: SyncRig) -> None:
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    ports = sync_rig.memory.ovs.ports
    ((name, port),) = ports.items()
    ports["old0"] = replace(port, name="old0")
    assert sync_rig.reconciler.reconcile() == [
        "unplugged old0 from br-data: network device old0 does not exist"
    ]
    assert list(ports) == [name]


def test_a_guest_that_resumed_without_an_event_is_announced(sync_rig: SyncRig) -> None:
    uuid = arrived(sync_rig)
    sync_rig.libvirt.paused = {uuid}
    assert sync_rig.reconciler.reconcile() == []
    sync_rig.libvirt.paused = set()
    assert sync_rig.reconciler.reconcile() == ["guest 'guest1' resumed here without an event"]
    assert sync_rig.arrived == [uuid]
    sync_rig.domain_sync.settle(uuid)
    assert sync_rig.reconciler.reconcile() == []


def test_a_release_that_was_interrupted_is_finished(sync_rig: SyncRig) -> None:
    before = sync_rig.memory.host.survey(PF)
    xml = guest(1, sync_rig.memory.vfs[0])
    uuid = sync_rig.start(xml)
    assert sync_rig.libvirt.domains is not None
    del sync_rig.libvirt.domains[uuid]
    sync_rig.memory.ovs.down = True
    sync_rig.leave(xml)
    assert sync_rig.reconciler.reconcile() == []
    sync_rig.memory.ovs.down = False
    changes = sync_rig.reconciler.reconcile()
    vf = sync_rig.memory.vfs[0]
    assert changes[0] == f"dropped the claim of guest 'guest1' on {vf}: its release was not finished"
    assert sync_rig.memory.host.survey(PF) == before
    assert sync_rig.reconciler.reconcile() == []


def test_a_release_is_finished_when_the_daemon_starts(sync_rig: SyncRig) -> None:
    """Without libvirt, which may not run yet."""
    xml = guest(1, sync_rig.memory.vfs[0])
    sync_rig.start(xml)
    sync_rig.memory.ovs.down = True
    sync_rig.leave(xml)
    sync_rig.memory.ovs.down = False
    sync_rig.libvirt.domains = None
    sync_rig.reconciler.finish_releases()
    assert sync_rig.store.all_releasing() == []
    assert sync_rig.memory.ovs.ports == {}


def test_one_claim_that_cannot_be_dropped_is_no_obstacle_for_the_others(sync_rig: SyncRig) -> None:
    first, second, third = sync_rig.memory.vfs[:3]
    for number, vf in enumerate((first, second), 1):
        sync_rig.start(guest(number, vf))
    sync_rig.libvirt.domains = {}
    sync_rig.change(guest(3, third))  # runs, and nobody has claimed its VF
    # in place of the claim's file: nobody can remove it as one
    file = sync_rig.directory / "claims" / f"{first}.json"
    file.unlink()
    (file / "something").mkdir(parents=True)
    sync_rig.now += 20
    changes = sync_rig.reconciler.reconcile()
    assert f"dropped the claim of guest 'guest2' on {second}: the guest does not run here" in changes
    assert [claim.vf for claim in sync_rig.store.all()] == [third]
    assert [claim.vf for claim in sync_rig.store.all_releasing()] == [first]
    assert [port.external_ids["vm-id"] for port in sync_rig.memory.ovs.ports.values()] == [
        sync_rig.store.all()[0].domain
    ]
    assert str(file) in str(sync_rig.store.problem(first))


def test_a_port_that_cannot_be_removed_is_no_obstacle_for_another(
    sync_rig: SyncRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vanished0", "vanished1"):
        sync_rig.memory.ovs.plug("br-data", name, "claim-of-long-ago", PortSettings())
    unplug = sync_rig.memory.ovs.unplug

    def refusing(name: str, owner: str) -> bool:
        if name == "vanished0":
            raise HostError("Open vSwitch refused it")
        return unplug(name, owner)

    monkeypatch.setattr(sync_rig.memory.ovs, "unplug", refusing)
    assert sync_rig.reconciler.reconcile() == ["unplugged vanished1 from br-data: its guest is gone"]


def without_libvirt(rig: SyncRig) -> None:
    rig.libvirt.domains = None


def without_an_answer_about_a_guest(rig: SyncRig) -> None:
    rig.libvirt.silent.update(rig.libvirt.domains or ())


def without_networks(rig: SyncRig) -> None:
    rig.libvirt.down = True


def without_open_vswitch(rig: SyncRig) -> None:
    rig.memory.ovs.down = True


def with_a_claim_that_cannot_be_written(rig: SyncRig) -> None:
    (claim,) = rig.store.all()
    file = rig.directory / "claims" / f"{claim.vf}.json"
    file.unlink()
    file.mkdir()
    rig.store.note(claim, origin=claim.vf)


#: what cannot be looked at or done, with the kind of the error and its first words
UNSEEN: dict[str, tuple[Callable[[SyncRig], None], str, str]] = {
    "libvirt": (without_libvirt, "unreachable", "guests and networks were not looked at: "),
    "a guest": (
        without_an_answer_about_a_guest,
        "unreachable",
        "libvirt does not answer about the running guest ",
    ),
    "networks": (without_networks, "unreachable", "no connection to libvirt"),
    "Open vSwitch": (without_open_vswitch, "unreachable", f"PF {PF}: "),
    "a claim": (with_a_claim_that_cannot_be_written, "host", ""),
}


@pytest.mark.parametrize("what", UNSEEN)
def test_what_a_reconcile_could_not_look_at_reaches_whoever_asked(sync_rig: SyncRig, what: str) -> None:
    """It was "nothing to do"."""
    sync_rig.start(guest(1, sync_rig.memory.vfs[0]))
    fail, kind, words = UNSEEN[what]
    with journal.failures() as failures:
        assert sync_rig.reconciler.reconcile() == []
    assert failures == []
    fail(sync_rig)
    with journal.failures() as failures:
        assert sync_rig.reconciler.reconcile() == []
    assert failures
    assert failures[0].kind == kind
    assert failures[0].problem.startswith(words)


def test_a_network_that_is_not_ours_is_no_obstacle_for_that_of_another_pool(tmp_path: Path) -> None:
    pfs = (PF, replace(PF, function=1))
    memory = MemoryHost(card=Card(tuple(map(str, pfs))))
    memory.card.set_eswitch_mode(str(pfs[1]), "switchdev")
    memory.card.numvfs(str(pfs[1]), "2")
    pools = [Pool(name, (pf,), "br-data", network=name) for name, pf in zip(("data", "other"), pfs)]
    with SyncRig(tmp_path, memory, Config({pool.name: pool for pool in pools})) as rig:
        rig.libvirt.define_network("<network><name>data</name></network>")
        with journal.failures() as failures:
            changes = rig.reconciler.reconcile()
        assert "defined libvirt network other with 2 VFs" in changes
        assert any("data" in failure.problem for failure in failures)


def questions_of_a_reconcile(directory: Path, vfs: int) -> Counter[str]:
    """What a reconcile asks of devlink, rtnetlink and Open vSwitch on a host whose VFs all belong to guests."""
    directory.mkdir()
    memory = MemoryHost(vfs=vfs)
    counts = counted(memory)
    with SyncRig(directory, memory) as rig:
        for number, vf in enumerate(memory.vfs, start=1):
            rig.start(guest(number, vf))
        rig.reconciler.reconcile()
        counts.clear()
        assert rig.reconciler.reconcile() == []
    # nobody walks through the processes for VFs that belong to guests and are as they should be
    assert counts["sysfs.held"] == counts["sysfs.in_use"] == 0
    return Counter({name: count for name, count in counts.items() if not name.startswith("sysfs.")})


def test_a_reconcile_asks_as_much_for_many_vfs_as_for_few(tmp_path: Path) -> None:
    few, many = (questions_of_a_reconcile(tmp_path / str(vfs), vfs) for vfs in (2, 8))
    assert many == few
    assert (many["links.all"], many["ovs.owned_ports"], many["devlink.vf_ports"]) == (1, 1, 1)


def test_a_reconcile_of_several_pfs_looks_once_at_what_they_share(tmp_path: Path) -> None:
    pfs = (PF, replace(PF, function=1))
    memory = MemoryHost(card=Card(tuple(map(str, pfs))))
    memory.card.set_eswitch_mode(str(pfs[1]), "switchdev")
    memory.card.numvfs(str(pfs[1]), "2")
    counts = counted(memory)
    with SyncRig(tmp_path, memory, Config({"data": replace(POOL, pfs=pfs)})) as rig:
        rig.reconciler.reconcile()
        for pf in map(str, pfs):  # free VFs that are bound, which a process may have
            vf = memory.card.vf(0, pf)
            memory.card.driver_override(vf, str(memory.card.hardware.variant_driver))
            memory.card.drivers_probe(vf)
            memory.card.driver_override(vf, "\n")
        counts.clear()
        rig.reconciler.reconcile()
    shared = ("sysfs.held", "links.all", "ovs.owned_ports")
    assert {name: counts[name] for name in shared} == dict.fromkeys(shared, 1)
    assert counts["devlink.vf_ports"] == 2


def test_an_open_vswitch_that_does_not_answer_is_asked_once_in_a_look() -> None:
    memory = MemoryHost()
    memory.ovs.down = True
    counts = counted(memory)
    around = memory.host.surroundings([PF])
    for _ in range(3):
        with pytest.raises(Unreachable):
            memory.host.survey(PF, around)
    assert counts["ovs.owned_ports"] == 1
