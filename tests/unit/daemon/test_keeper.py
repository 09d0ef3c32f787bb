# SPDX-License-Identifier: GPL-2.0-or-later
"""What the daemon does of its own accord, on a host in memory with a libvirt that only remembers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional, cast

import pytest

from tests.fakes.guest_xml import ELSEWHERE, STANDBY, guest, paired
from tests.fakes.networks import MemoryNetworks
from tests.fakes.rig import PF, Rig
from vfmigrate.claims import claim_store
from vfmigrate.daemon.keeper import Keeper
from vfmigrate.domain import domain_xml
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.ovs.openvswitch import PortSettings
from vfmigrate.virt.lifecycle import LifecycleEvent


class MemoryHypervisor(MemoryNetworks):
    """What `vfmigrate.virt.hypervisor.Hypervisor` shows of a libvirt, held in dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.domains: Optional[dict[str, str]] = {}
        self.definitions: dict[str, str] = {}
        self.stamps: dict[str, tuple[Mark, ...]] = {}
        self.defined: list[str] = []
        self.refusals = 0
        #: domains that are here and do not execute, as while they arrive
        self.paused: set[str] = set()
        self.on_event: Callable[[LifecycleEvent], None] = lambda _event: None
        #: domains on the move, and the VFs that were to be plugged in again
        self.moving: set[str] = set()
        self.plugged: list[str] = []
        self.did_plug = threading.Event()
        #: happens after libvirt has answered and before the answer is read
        self.meanwhile: Callable[[], object] = lambda: None

    def start(self, on_event: Callable[[LifecycleEvent], None], _on_connect: Callable[[], None]) -> None:
        self.on_event = on_event

    def stop(self) -> None:
        """Nothing runs."""

    def running(self) -> Mapping[str, str]:
        if self.domains is None:
            raise Unreachable("no connection to libvirt")
        answer = dict(self.domains)
        self.meanwhile()
        return answer

    def xml(self, uuid: str) -> Optional[str]:
        return self.running().get(uuid)

    def migrating(self, uuid: str) -> bool:
        return uuid in self.moving

    def plug_again(self, uuid: str, mac: str, spare: Callable[[str], str]) -> None:
        assert mac in self.running()[uuid]
        self.plugged.append(spare(self.running()[uuid]))
        self.did_plug.set()

    def executing(self) -> frozenset[str]:
        return frozenset(self.running()) - self.paused

    def stamp(self, uuid: str, marks: tuple[Mark, ...]) -> None:
        if self.refusals:
            self.refusals -= 1
            raise HostError("libvirt: metadata: domain is locked")
        self.stamps[uuid] = marks

    def persistent_xml(self, uuid: str) -> Optional[str]:
        return self.definitions.get(uuid)

    def define(self, xml: str) -> None:
        self.defined.append(xml)


class KeeperRig(Rig):
    """The rig with everything that the daemon has, its threads not started."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.libvirt = MemoryHypervisor()
        self.keeper = Keeper(
            self.config,
            self.memory.host,
            self.store,
            self.converger,
            self.operations,
            self.announcer,
            cast(Any, self.libvirt),
            self.log,
        )

    def start(self, xml: str) -> str:
        """Start a guest, in libvirt too; returns its UUID."""
        self.run(xml)
        self.change(xml)
        return domain_xml.read(xml).uuid

    def change(self, xml: str) -> None:
        """Have libvirt run a domain like this."""
        assert self.libvirt.domains is not None
        self.libvirt.domains[domain_xml.read(xml, lenient=True).uuid] = xml


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[KeeperRig]:
    with KeeperRig(tmp_path) as rig:
        rig.keeper.reconcile()
        yield rig


def test_reconciling_twice_changes_nothing(rig: KeeperRig) -> None:
    rig.start(guest(1, rig.memory.vfs[0]))
    assert rig.keeper.reconcile() == []


def test_a_promise_runs_out(rig: KeeperRig) -> None:
    rig.operations.handle("migrate", "begin", "-", guest(1, ELSEWHERE))
    rig.now += 119
    assert rig.keeper.reconcile() == []
    rig.now += 2
    (change,) = rig.keeper.reconcile()
    assert change == f"dropped the claim of guest 'guest1' on {rig.memory.vfs[-1]}: the guest never came"
    assert rig.store.all() == []


def test_a_guest_that_is_gone_leaves_nothing(rig: KeeperRig) -> None:
    before = rig.memory.host.survey(PF)
    uuid = rig.start(guest(1, rig.memory.vfs[0]))
    assert rig.libvirt.domains is not None
    del rig.libvirt.domains[uuid]
    assert rig.keeper.reconcile() == []  # it may be about to appear
    rig.now += 20
    changes = rig.keeper.reconcile()
    assert (
        changes[0]
        == f"dropped the claim of guest 'guest1' on {rig.memory.vfs[0]}: the guest does not run here"
    )
    assert rig.memory.host.survey(PF) == before


def test_without_libvirts_word_nobody_is_dropped(rig: KeeperRig) -> None:
    rig.start(guest(1, rig.memory.vfs[0]))
    rig.libvirt.domains = None
    rig.now += 1000
    assert rig.keeper.reconcile() == []


def test_running_guests_are_adopted(rig: KeeperRig) -> None:
    xml = guest(1, rig.memory.vfs[0])
    rig.change(xml)
    assert rig.keeper.reconcile()[0] == f"adopted {rig.memory.vfs[0]} of guest 'guest1'"
    assert len(rig.memory.ovs.ports) == 1
    assert rig.keeper.reconcile() == []


@pytest.mark.parametrize("look", ["reconcile", "follow"])
def test_a_guest_that_ended_while_libvirt_was_asked_is_not_adopted(rig: KeeperRig, look: str) -> None:
    """As libvirtd does that comes back from a crash: it tells of the domain, and then makes an end of it."""
    before = rig.memory.host.survey(PF)
    xml = guest(1, rig.memory.vfs[0])
    uuid = rig.start(xml)

    def end() -> None:
        rig.libvirt.meanwhile = lambda: None  # once: a second end would take away what the first left
        rig.now += 0.1
        for operation in ("stopped", "release"):
            rig.operations.handle(operation, "end", "daemon", xml)

    rig.libvirt.meanwhile = end
    rig.keeper.reconcile() if look == "reconcile" else rig.keeper.follow(uuid)
    assert rig.store.all() == []
    assert rig.memory.host.survey(PF) == before
    rig.now += 1
    rig.keeper.reconcile()
    assert [claim.domain for claim in rig.store.all()] == [uuid]  # libvirt says so again: it was started anew


def test_an_orphaned_port_goes_and_a_guests_port_stays(rig: KeeperRig) -> None:
    rig.start(guest(1, rig.memory.vfs[0]))
    (kept,) = rig.memory.ovs.ports
    rig.memory.ovs.plug("br-data", "vanished0", "claim-of-long-ago", PortSettings())
    assert rig.keeper.reconcile() == ["unplugged vanished0 from br-data: its guest is gone"]
    assert list(rig.memory.ovs.ports) == [kept]


def test_what_was_changed_behind_our_back_is_mended(rig: KeeperRig) -> None:
    rig.start(guest(1, rig.memory.vfs[0]))
    (port,) = list(rig.memory.ovs.ports)
    del rig.memory.ovs.ports[port]
    assert rig.keeper.reconcile() == [f"plug {port} into br-data with tag 42"]


def arrived(rig: KeeperRig) -> str:
    rewritten = rig.operations.handle("migrate", "begin", "-", guest(1, ELSEWHERE))
    assert rewritten is not None
    return rig.start(rewritten)


def test_a_guest_that_arrived_is_stamped_and_its_definition_mended(rig: KeeperRig) -> None:
    uuid = arrived(rig)
    rig.libvirt.definitions[uuid] = guest(1, ELSEWHERE)
    rig.libvirt.refusals = 1  # the migration still holds the domain
    rig.keeper.settle(uuid)
    (mark,) = rig.libvirt.stamps[uuid]
    (claim,) = rig.store.all()
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
    (defined,) = rig.libvirt.defined
    assert domain_xml.read(defined).interfaces[0].address == claim.vf
    assert not claim.incoming


def test_a_guest_that_resumed_while_nobody_listened_is_caught_up_with(rig: KeeperRig) -> None:
    uuid = arrived(rig)
    resumed: list[str] = []
    rig.keeper.on_resumed = resumed.append
    rig.libvirt.paused = {uuid}
    assert rig.keeper.reconcile() == []
    rig.libvirt.paused = set()
    assert rig.keeper.reconcile() == ["guest 'guest1' resumed here unnoticed"]
    assert resumed == [uuid]
    rig.keeper.settle(uuid)  # what the keeper's thread has next in its queue
    assert rig.keeper.reconcile() == []


def test_the_definition_of_a_guest_that_started_here_is_not_touched(rig: KeeperRig) -> None:
    uuid = rig.start(guest(1, rig.memory.vfs[0]))
    rig.libvirt.definitions[uuid] = guest(1, rig.memory.vfs[1])
    rig.keeper.settle(uuid)
    assert rig.libvirt.defined == []
    assert uuid in rig.libvirt.stamps


def test_only_what_resumes_after_a_migration_is_announced(rig: KeeperRig) -> None:
    rig.keeper.start()
    uuid = arrived(rig)
    rig.announcer.warm(uuid)
    rig.libvirt.on_event(LifecycleEvent(uuid, "guest1", "resumed", "unpaused"))
    rig.libvirt.on_event(LifecycleEvent("11111111-0000-4000-8000-000000000000", "x", "resumed", "migrated"))
    assert rig.memory.ovs.frames == []
    rig.libvirt.on_event(LifecycleEvent(uuid, "guest1", "resumed", "migrated"))
    assert rig.memory.ovs.sent.wait(10)
    bridge, _, frame = rig.memory.ovs.frames[0]
    assert (bridge, frame[6:12].hex(":")) == ("br-data", "52:54:00:00:01:00")
    rig.keeper.stop()


def test_a_restored_guest_is_announced_as_well(rig: KeeperRig) -> None:
    rig.keeper.start()
    rewritten = rig.operations.handle("restore", "begin", "-", guest(1, ELSEWHERE))
    assert rewritten is not None
    uuid = rig.start(rewritten)
    rig.libvirt.on_event(LifecycleEvent(uuid, "guest1", "started", "restored"))
    assert rig.memory.ovs.sent.wait(10)
    assert rig.operations.moves.guests(PF) == []
    rig.keeper.stop()


def test_a_claim_in_other_hands_is_left_to_them(rig: KeeperRig) -> None:
    rig.start(guest(1, rig.memory.vfs[0]))
    other = guest(2, rig.memory.vfs[0])
    rig.change(other)
    rig.keeper.reconcile()
    (claim,) = rig.store.all()
    assert (claim.domain_name, claim.state) == ("guest1", claim_store.PLUGGED)


def test_a_vf_that_was_plugged_into_a_running_guest_is_claimed_plugged_and_stamped(rig: KeeperRig) -> None:
    uuid = rig.start(guest(1, rig.memory.vfs[0]))
    rig.change(guest(1, *rig.memory.vfs[:2]))
    assert rig.keeper.follow(uuid)[0] == f"guest 'guest1' was given {rig.memory.vfs[1]}"
    assert [claim.vf for claim in rig.store.of_domain(uuid)] == rig.memory.vfs[:2]
    assert [port.tag for port in rig.memory.ovs.ports.values()] == [42, 42]
    assert [mark.address for mark in rig.libvirt.stamps[uuid]] == rig.memory.vfs[:2]
    assert rig.keeper.follow(uuid) == []


def test_a_vf_that_was_unplugged_is_free_and_its_vlan_remembered(rig: KeeperRig) -> None:
    gone: list[str] = []
    rig.keeper.on_unplugged = lambda claim: gone.append(str(claim.mac))
    uuid = rig.start(guest(1, *rig.memory.vfs[:2]))
    with_both = guest(1, *rig.memory.vfs[:2])
    end = with_both.index("</interface>") + len("</interface>")
    rig.change(with_both[:end] + "</devices></domain>")
    changes = rig.keeper.follow(uuid)
    assert changes[0] == f"guest 'guest1' gave {rig.memory.vfs[1]} back"
    assert gone == ["52:54:00:00:01:01"]
    assert [claim.vf for claim in rig.store.all()] == rig.memory.vfs[:1]
    assert len(rig.memory.ovs.ports) == 1
    held, left = rig.libvirt.stamps[uuid]
    assert (held.address, held.psid) == (rig.memory.vfs[0], "MT_0000000892")
    assert left == Mark(mac="52:54:00:00:01:01", pool="data", vlan=42)


def test_a_vf_that_was_unplugged_while_nobody_listened_is_free_after_a_reconcile(rig: KeeperRig) -> None:
    uuid = rig.start(guest(1, rig.memory.vfs[0]))
    rig.change(guest(1))
    assert rig.keeper.reconcile() == []  # it may be about to be plugged in
    rig.now += 20
    assert rig.keeper.reconcile()[0] == f"guest 'guest1' gave {rig.memory.vfs[0]} back"
    assert rig.store.of_domain(uuid) == []


def test_a_claim_that_runs_out_waits_for_its_vf_to_be_plugged_in(rig: KeeperRig) -> None:
    """As when vdsm's plugin has claimed a VF that vdsm is about to plug in."""
    uuid = rig.start(guest(1, rig.memory.vfs[0]))
    (claim,) = rig.store.all()
    rig.store.change(claim, expires=rig.now + 100)
    rig.change(guest(1))
    assert rig.keeper.follow(uuid) == []
    assert rig.store.get(claim.vf) is not None


def test_a_vf_that_is_out_for_a_migration_stays_claimed(rig: KeeperRig) -> None:
    uuid = rig.start(guest(1, rig.memory.vfs[0]))
    (claim,) = rig.store.all()
    rig.store.change(claim, strategy="replug", slot="0000:05:00.0")
    rig.change(guest(1))
    assert rig.keeper.follow(uuid) == []
    rig.now += 20
    rig.keeper.reconcile()
    assert rig.store.get(claim.vf) is not None


def test_metadata_that_cannot_be_read_is_stamped_anew(rig: KeeperRig) -> None:
    uuid = rig.start(guest(1, rig.memory.vfs[0]))
    rig.change(guest(1, rig.memory.vfs[0]).replace("vlan='42'", "vlan='many'"))
    rig.keeper.settle(uuid)
    assert [mark.vlan for mark in rig.libvirt.stamps[uuid]] == [42]


def test_what_is_stamped_already_is_not_stamped_again(rig: KeeperRig) -> None:
    xml = guest(
        1,
        rig.memory.vfs[0],
        marks=f"address='{rig.memory.vfs[0]}' pool='data' vlan='42' strategy='vfio' "
        "psid='MT_0000000892' firmware='28.42.1000' msix='11' pf='0000:01:00.0'",
    )
    uuid = rig.start(xml)
    rig.keeper.settle(uuid)
    assert rig.libvirt.stamps == {}


def test_a_plain_hostdev_is_found_in_its_definition_by_the_address_that_it_had(rig: KeeperRig) -> None:
    address = "<address domain='0x0000' bus='0x81' slot='0x00' function='0x2'/>"
    device = f"<hostdev mode='subsystem' type='pci' managed='yes'><source>{address}</source></hostdev>"
    marked = guest(1).replace("</v:vfs>", f"<v:vf address='{ELSEWHERE}' pool='data' vlan='42'/></v:vfs>")
    xml = marked.replace("<devices>", f"<devices>{device}")
    rewritten = rig.operations.handle("migrate", "begin", "-", xml)
    assert rewritten is not None
    uuid = rig.start(rewritten)
    rig.libvirt.definitions[uuid] = xml
    rig.keeper.settle(uuid)
    (claim,) = rig.store.all()
    (defined,) = rig.libvirt.defined
    (interface,) = domain_xml.read(defined).interfaces
    assert interface.address == claim.vf
    assert interface.mark == Mark(address=claim.vf, pool="data", vlan=42)


def test_the_definition_of_a_restored_guest_stays_the_administrators(rig: KeeperRig) -> None:
    other = rig.start(guest(2, rig.memory.vfs[0]))
    saved = guest(1, rig.memory.vfs[0])
    rewritten = rig.operations.handle("restore", "begin", "-", saved)
    assert rewritten is not None
    uuid = rig.start(rewritten)
    rig.libvirt.definitions[uuid] = saved
    rig.keeper.settle(uuid)
    assert rig.libvirt.defined == []
    assert [claim.vf for claim in rig.store.of_domain(other)] == [rig.memory.vfs[0]]


def test_the_pools_network_is_kept(rig: KeeperRig) -> None:
    del rig.libvirt.live["vfmigrate-data"]
    assert rig.keeper.reconcile() == ["start libvirt network vfmigrate-data"]
    assert rig.keeper.reconcile() == []


def test_the_port_of_a_representor_that_was_renamed_goes(rig: KeeperRig) -> None:
    rig.start(guest(1, rig.memory.vfs[0]))
    ports = rig.memory.ovs.ports
    ((name, port),) = ports.items()
    ports["old0"] = replace(port, name="old0")
    assert rig.keeper.reconcile() == ["unplugged old0 from br-data: there is no network device old0 any more"]
    assert list(ports) == [name]


TEAMING = "</source><teaming type='transient' persistent='ua-x'/>"


def plug_by_hand(rig: KeeperRig, uuid: str, *changes: tuple[str, str]) -> None:
    """Devices of a running guest come and go, of which libvirt tells and no hook does."""
    assert rig.libvirt.domains is not None
    for old, new in changes:
        assert old in rig.libvirt.domains[uuid]
        rig.libvirt.domains[uuid] = rig.libvirt.domains[uuid].replace(old, new)
    rig.keeper.follow(uuid)


def test_a_vf_becomes_half_of_a_pair_with_its_standby_and_a_lone_one_without(rig: KeeperRig) -> None:
    vf = rig.memory.vfs[0]
    uuid = rig.start(guest(1, vf))
    assert list(rig.memory.ovs.ports)
    plug_by_hand(rig, uuid, ("</devices>", f"{STANDBY}</devices>"))
    assert [claim.strategy for claim in rig.store.all()] == ["failover"]
    assert rig.memory.ovs.ports == {}  # the guest is on its standby
    rig.memory.card.set_bus_master(str(vf), True)
    plug_by_hand(rig, uuid, ("</source>", TEAMING))
    assert [claim.strategy for claim in rig.store.all()] == ["failover"]
    plug_by_hand(rig, uuid, (TEAMING, "</source>"), (STANDBY, ""))
    assert [claim.strategy for claim in rig.store.all()] == ["vfio"]
    assert len(rig.memory.ovs.ports) == 1


def test_a_vf_plugged_in_by_hand_is_claimed_and_one_of_a_network_may_change(rig: KeeperRig) -> None:
    first, second = rig.memory.vfs[:2]
    uuid = rig.start(guest(1, first))
    old, new = (f"function='{vf.function:#x}'" for vf in (first, second))
    plug_by_hand(rig, uuid, (old, new))
    assert [(claim.vf, claim.mac) for claim in rig.store.all()] == [(second, "52:54:00:00:01:00")]
    assert len(rig.memory.ovs.ports) == 1


def test_a_vf_that_could_not_be_plugged_in_again_is_described_anew(rig: KeeperRig) -> None:
    uuid = rig.start(paired(rig.memory.vfs[0]))
    (claim,) = rig.store.all()
    rig.libvirt.moving = {uuid}
    rig.keeper.plug_again(claim)
    for thread in threading.enumerate():
        if thread.name == "plug-again":
            thread.join()
    assert rig.libvirt.plugged == []  # a migration plugs it in itself
    rig.libvirt.moving = set()
    rig.keeper.plug_again(claim)
    assert rig.libvirt.did_plug.wait(10)
    (device,) = rig.libvirt.plugged
    assert device == (
        "<interface type='hostdev' managed='yes'><mac address='52:54:00:00:01:00'/><source><address type='pci' "
        "domain='0x0000' bus='0x01' slot='0x00' function='0x2'/></source>"
        "<teaming type='transient' persistent='ua-x'/></interface>"
    )
