# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VF is asked whether it can migrate, and when, on a host in memory; never one that somebody has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from tests.fakes.card import LEGACY, Card
from tests.fakes.guest_xml import guest
from tests.fakes.hardware import Hardware
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF, POOL, Rig
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.errors import HostError
from vfmigrate.host.devlink_messages import CardVersions
from vfmigrate.host.vfio import VfioNodes
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import MigrationSupport
from vfmigrate.provision import pf
from vfmigrate.provision.device_query import RETRY_SECONDS, DeviceAnswer, DeviceQuery

ALL = MigrationSupport("mlx5_vfio_pci", True, True, True, True, 4 << 20)
NONE = MigrationSupport("mlx5_vfio_pci")


class QueryRig(Rig):
    """A host with free VFs that are ready."""

    def __init__(self, place: Path, vfs: int = 4, **hardware: Any) -> None:
        card = Card((str(PF),), hardware=Hardware(**hardware))
        super().__init__(place, MemoryHost(vfs=vfs, card=card))
        for vf in self.memory.vfs:
            self.converger.converge(vf)
        self.elapsed = 0.0
        self.query = DeviceQuery(self.services, clock=lambda: self.elapsed)

    def ask(self) -> DeviceAnswer:
        return self.query.ask(PF)

    def known(self) -> DeviceAnswer:
        state = pf.observe(self.memory.host, self.store, POOL, PF)
        return self.query.known(state, self.memory.host.card(PF))

    @property
    def asked(self) -> list[PciAddress]:
        return self.memory.vfio.asked

    def drivers(self) -> list[Optional[str]]:
        return [self.memory.sysfs.driver(vf) for vf in self.memory.vfs]

    def claim(self, index: int, state: str = claim_store.PLUGGED) -> Claim:
        vf = self.memory.vfs[index]
        claim = Claim(vf, "data", "22222222-2222-4222-8222-222222222222", "guest1", state, 0.0)
        return self.store.put(claim)

    def refit(self, **changes: Any) -> None:
        self.memory.card.hardware = replace(self.memory.card.hardware, **changes)


MakeQueryRig = Callable[..., QueryRig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeQueryRig]:
    with ExitStack() as rigs:
        yield lambda **options: rigs.enter_context(QueryRig(tmp_path, **options))


@pytest.fixture
def rig(make_rig: MakeQueryRig) -> QueryRig:
    return make_rig()


def test_a_free_vf_is_asked_once_and_left_as_it_was(rig: QueryRig) -> None:
    before = rig.memory.host.survey(PF)
    assert rig.known() == DeviceAnswer(None, "no VF has been asked yet")
    assert rig.ask() == DeviceAnswer(ALL, None)
    assert rig.known() == DeviceAnswer(ALL, None)
    rig.elapsed += 10 * RETRY_SECONDS
    assert rig.ask() == DeviceAnswer(ALL, None)
    assert rig.asked == [rig.memory.vfs[2]]
    assert rig.memory.host.survey(PF) == before


def test_neither_the_first_nor_the_last_free_vf_is_asked(make_rig: MakeQueryRig) -> None:
    rig = make_rig(vfs=3)
    rig.ask()
    assert rig.asked == [rig.memory.vfs[1]]


def test_one_that_is_bound_to_the_driver_is_bound_again_and_stays_bound(make_rig: MakeQueryRig) -> None:
    rig = make_rig(vfs=1)
    (vf,) = rig.memory.vfs
    port = rig.memory.devlink.vf_ports(PF)[0]
    rig.memory.devlink.set_port_function(PF, port.index, migratable=False)
    rig.memory.sysfs.bind(vf, "mlx5_vfio_pci")
    rig.memory.devlink.set_port_function(PF, port.index, migratable=True)  # too late for the driver
    assert rig.ask().support == ALL
    assert rig.drivers() == ["mlx5_vfio_pci"]


def test_a_vf_that_somebody_has_is_never_asked(make_rig: MakeQueryRig) -> None:
    rig = make_rig(vfs=4)
    rig.claim(0)
    rig.memory.sysfs.bind(rig.memory.vfs[1], "mlx5_vfio_pci")
    rig.memory.sysfs.open_groups.add(str(rig.memory.vfs[1]))
    rig.memory.sysfs.bind(rig.memory.vfs[2], "mlx5_core")
    rig.memory.sysfs.bind(rig.memory.vfs[3], "vfio-pci")
    before = rig.drivers()
    assert rig.ask() == DeviceAnswer(None, f"PF {PF} has no free VF that may be asked")
    assert (rig.asked, rig.drivers()) == ([], before)


def test_one_that_is_not_ready_is_not_asked(rig: QueryRig) -> None:
    for port in rig.memory.devlink.vf_ports(PF).values():
        rig.memory.devlink.set_port_function(PF, port.index, migratable=False)
    assert rig.ask().unknown == f"PF {PF} has no free VF that may be asked"
    assert rig.asked == []


@pytest.mark.parametrize("state", [claim_store.RESERVED, claim_store.PREPARED])
def test_none_is_asked_while_a_guest_comes(rig: QueryRig, state: str) -> None:
    rig.claim(0, state)
    assert rig.ask() == DeviceAnswer(None, f"a guest starts, stops or migrates on PF {PF}")
    rig.claim(0, claim_store.PLUGGED)
    assert rig.ask().support == ALL


def test_a_kernel_without_a_variant_driver(make_rig: MakeQueryRig) -> None:
    rig = make_rig(variant_driver=None)
    assert rig.ask().unknown == f"this kernel has no variant driver for the VFs of PF {PF}"


@pytest.mark.parametrize("vendor", [0x15B3, 0x8086])
def test_a_vf_is_not_asked_while_the_eswitch_is_in_legacy_mode(make_rig: MakeQueryRig, vendor: int) -> None:
    rig = make_rig(vendor=vendor)
    rig.memory.card.set_eswitch_mode(str(PF), LEGACY)
    assert rig.ask().unknown == f"the eswitch of PF {PF} is in legacy mode"
    assert rig.asked == []


def test_a_pf_without_vfs(rig: QueryRig) -> None:
    rig.memory.card.numvfs(str(PF), "0")
    assert rig.ask().unknown == f"PF {PF} has no VFs"


@pytest.mark.parametrize("change", ["firmware", "mode", "vfs", "driver"])
def test_an_answer_holds_until_the_card_changes(rig: QueryRig, change: str) -> None:
    assert rig.ask().support == ALL
    if change == "firmware":
        rig.refit(firmware="28.43.1000")
    elif change == "mode":
        rig.memory.card.set_eswitch_mode(str(PF), LEGACY)
    elif change == "vfs":
        rig.memory.card.numvfs(str(PF), "0")
        rig.memory.card.numvfs(str(PF), "2")
    else:
        rig.memory.sysfs.driver_identities["mlx5_vfio_pci"] = 3  # loaded again, another build
    assert rig.known().support is None
    if change == "mode":
        assert rig.ask().support is None
        return
    for vf in rig.memory.sysfs.vfs(PF):
        rig.converger.converge(vf)
    assert rig.ask().support == ALL
    assert len(rig.asked) == 2


def test_the_driver_may_be_loaded_by_asking(rig: QueryRig) -> None:
    del rig.memory.sysfs.driver_identities["mlx5_vfio_pci"]
    bind = rig.memory.sysfs.bind

    def load_and_bind(device: PciAddress, driver: str) -> None:
        rig.memory.sysfs.driver_identities[driver] = 5
        bind(device, driver)

    rig.memory.sysfs.bind = load_and_bind  # type: ignore[method-assign]  # what modprobe does in between
    rig.ask()
    assert rig.known().support == ALL


def test_an_answer_that_vfs_cannot_migrate_is_asked_for_again_after_a_while(make_rig: MakeQueryRig) -> None:
    rig = make_rig(migration=False)
    assert rig.ask() == DeviceAnswer(NONE, None)
    rig.refit(migration=True)  # a setting of the firmware; its version is the same
    for vf in rig.memory.vfs:
        rig.converger.converge(vf)
    assert rig.ask().support == NONE
    rig.elapsed += RETRY_SECONDS
    assert rig.ask().support == ALL


def test_provisioning_has_it_asked_again_at_once(make_rig: MakeQueryRig) -> None:
    rig = make_rig(migration=False)
    rig.ask()
    rig.query.forget(PF)
    rig.ask()
    assert len(rig.asked) == 2
    rig.refit(migration=True)
    for vf in rig.memory.vfs:
        rig.converger.converge(vf)
    rig.query.forget(PF)
    assert rig.ask().support == ALL
    rig.query.forget(PF)  # it can migrate, and that holds
    assert rig.ask().support == ALL
    assert len(rig.asked) == 3


def test_a_failure_to_ask_is_unknown_and_leaves_the_vf_as_it_was(rig: QueryRig) -> None:
    before = rig.memory.host.survey(PF)
    rig.memory.vfio.refusal = HostError("VF cannot be asked through VFIO: Operation not permitted", "see it")
    answer = rig.ask()
    assert answer == DeviceAnswer(None, "VF cannot be asked through VFIO: Operation not permitted; see it")
    assert rig.memory.host.survey(PF) == before
    rig.ask()
    assert len(rig.asked) == 1  # not at every reconcile
    rig.memory.vfio.refusal = None
    rig.elapsed += RETRY_SECONDS
    assert rig.ask().support == ALL


def test_a_pf_that_cannot_be_observed_is_unknown(rig: QueryRig) -> None:
    def refuse(_pf: PciAddress) -> CardVersions:
        raise HostError("devlink: PF does not answer")

    rig.memory.devlink.info = refuse  # type: ignore[method-assign,assignment]  # a kernel that refuses
    assert rig.ask() == DeviceAnswer(None, "devlink: PF does not answer")


def test_a_hook_that_takes_the_vf_waits_and_then_has_it(make_rig: MakeQueryRig) -> None:
    rig = make_rig(vfs=1)
    (vf,) = rig.memory.vfs
    asking, taken, order = threading.Event(), threading.Event(), list[str]()
    ask = rig.memory.vfio.ask

    def slow(vf: PciAddress, nodes: VfioNodes, driver: str) -> MigrationSupport:
        asking.set()
        assert taken.wait(10)
        order.append("asked")
        return ask(vf, nodes, driver)

    def hook() -> None:
        assert asking.wait(10)
        rig.run(guest(1, vf))
        order.append("started")

    rig.memory.vfio.ask = slow  # type: ignore[method-assign]  # a device whose reset takes long
    starting = threading.Thread(target=hook)
    starting.start()
    query = threading.Thread(target=rig.ask)
    query.start()
    assert asking.wait(10)
    while rig.store.get(vf) is None:  # the hook is not refused, and has its claim at once
        starting.join(0.01)
    taken.set()
    starting.join(10)
    query.join(10)
    assert order == ["asked", "started"]
    claim = rig.store.get(vf)
    assert claim is not None
    assert claim.state == claim_store.PLUGGED


def test_a_vf_that_was_taken_since_it_was_found_free(make_rig: MakeQueryRig) -> None:
    rig = make_rig(vfs=1)
    (vf,) = rig.memory.vfs
    with rig.converger.hold(vf):  # a hook operation is at work on it
        query = threading.Thread(target=rig.ask)
        query.start()
        query.join(0.2)
        rig.claim(0)
    query.join(10)
    assert rig.asked == []
    assert rig.known() == DeviceAnswer()  # nothing was found out, so the next reconcile asks
