# SPDX-License-Identifier: GPL-2.0-or-later
"""How many VFs of a physical function move at once: who waits, who is refused, and what makes room."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest

from tests.fakes.card import Card
from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF, Rig
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.converger import Converger
from vfmigrate.daemon.hook_handler import HookHandler
from vfmigrate.domain import domain_xml
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules.compatibility import TooManyMigrating

OTHER_PF = PciAddress(0, 1, 0, 1)


class SlotsRig(Rig):
    """The rig with guests that come and, when the test says so, have come."""

    def __init__(self, directory: Path, *, vfs: int = 8, wait: int = 0, pfs: int = 1) -> None:
        pf_addresses = (PF, OTHER_PF)[:pfs]
        memory = MemoryHost(vfs=vfs, card=Card(tuple(map(str, pf_addresses))))
        for pf in pf_addresses[1:]:
            memory.card.autoprobe(str(pf), "0")
            memory.card.numvfs(str(pf), str(vfs))
            memory.card.set_eswitch_mode(str(pf), "switchdev")
        pool = Pool("data", pf_addresses, "br-data", vlans=frozenset({42}))
        super().__init__(directory, memory, Config({"data": pool}, migrating_wait=wait))

    def come(self, number: int, vfs: int = 1) -> str:
        elsewhere = [PciAddress(0, 0x81, 0, index) for index in range(vfs)]
        answer = self.call("migrate", guest(number, *elsewhere))
        assert answer is not None
        return answer

    def arrived(self, number: int) -> None:
        self.hook_handler.slots.arrived(f"00000000-0000-4000-8000-{number:012d}")


MakeSlotsRig = Callable[..., SlotsRig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeSlotsRig]:
    with ExitStack() as rigs:
        yield lambda **options: rigs.enter_context(SlotsRig(tmp_path, **options))


def test_the_fifth_guest_is_refused_with_the_guests_that_migrate(make_rig: MakeSlotsRig) -> None:
    rig = make_rig()
    for number in range(1, 5):
        rig.come(number)
    with pytest.raises(
        TooManyMigrating, match=r"4 VFs of PF 0000:01:00.0 .*guests guest1, guest2, guest3, guest4"
    ):
        rig.come(5)
    assert len(rig.store.all()) == 4


def test_a_guest_that_arrived_frees_its_slot(make_rig: MakeSlotsRig) -> None:
    rig = make_rig()
    for number in range(1, 5):
        rig.come(number)
    rig.arrived(2)
    rig.come(5)
    with pytest.raises(TooManyMigrating):
        rig.come(6)


def test_the_fifth_guest_waits_without_blocking_others(make_rig: MakeSlotsRig) -> None:
    rig = make_rig(wait=30)
    answers = [rig.come(number) for number in range(1, 5)]
    came: list[str] = []
    fifth = threading.Thread(target=lambda: came.append(rig.come(5)))
    fifth.start()
    fifth.join(0.3)
    assert fifth.is_alive()
    for operation in ("prepare", "start", "started"):  # of a guest that is before it, while it waits
        rig.call(operation, answers[0])
    rig.arrived(1)
    fifth.join(10)
    assert len(came) == 1
    assert len({claim.vf for claim in rig.store.all()}) == 5


def test_a_waiting_guest_is_refused_when_the_daemon_stops(make_rig: MakeSlotsRig) -> None:
    rig = make_rig(wait=30)
    for number in range(1, 5):
        rig.come(number)
    refused: list[Refused] = []

    def come() -> None:
        try:
            rig.come(5)
        except Refused as error:
            refused.append(error)

    fifth = threading.Thread(target=come)
    fifth.start()
    fifth.join(0.3)
    rig.hook_handler.slots.close()
    fifth.join(10)
    assert len(refused) == 1


def test_an_expired_reservation_does_not_count_as_migrating(make_rig: MakeSlotsRig) -> None:
    rig = make_rig()
    for number in range(1, 5):
        rig.come(number)
    rig.now += rig.config.claim_timeout + 1
    rig.come(5)


def test_vfs_beyond_the_limit_of_one_pf_come_from_another(make_rig: MakeSlotsRig) -> None:
    rig = make_rig(pfs=2)
    for number in range(1, 5):
        rig.come(number)
    rig.come(5, vfs=4)
    counts = [len(rig.hook_handler.slots.guests(pf)) for pf in (PF, OTHER_PF)]
    assert counts == [4, 4]
    with pytest.raises(Refused, match="already migrating"):
        rig.come(6)


def test_a_guest_with_more_vfs_than_can_migrate_is_refused_at_once(make_rig: MakeSlotsRig) -> None:
    rig = make_rig(wait=30)
    with pytest.raises(
        Refused, match="has 5 VFs of pool 'data', and the cards of this host can migrate 4 at a time"
    ):
        rig.come(1, vfs=5)


def test_a_guest_with_more_vfs_of_one_card_at_its_source_is_refused_at_once(make_rig: MakeSlotsRig) -> None:
    rig = make_rig(wait=30, pfs=2)
    elsewhere = [PciAddress(0, 0x81, 0, index) for index in range(5)]
    xml = guest(1, *elsewhere, marks="pool='data' pf='0000:81:00.0'")
    with pytest.raises(Refused, match=r"has 5 VFs of PF 0000:81:00.0 on the source"):
        rig.call("migrate", xml)
    assert rig.store.all() == []


def test_no_free_vf_is_refused_without_waiting(make_rig: MakeSlotsRig) -> None:
    rig = make_rig(vfs=4, wait=30)
    for number in range(1, 5):
        rig.come(number)
    with pytest.raises(Refused, match="no free VF"):
        rig.come(5)


def network_guest(number: int) -> str:
    mac = f"52:54:00:00:{number:02x}:00"
    device = f"<interface type='network'><mac address='{mac}'/><source network='data'/></interface>"
    mark = f"<v:vf mac='{mac}' pool='data' vlan='42'/>"
    return guest(number).replace("</v:vfs>", f"{mark}</v:vfs>").replace("<devices>", f"<devices>{device}")


def test_guests_of_a_hostdev_network_count_before_libvirt_has_chosen(make_rig: MakeSlotsRig) -> None:
    rig = make_rig()
    for number in range(1, 5):
        assert rig.call("migrate", network_guest(number)) is None
    with pytest.raises(TooManyMigrating, match="guests guest1, guest2, guest3, guest4"):
        rig.come(5)
    rig.now += rig.config.claim_timeout + 1
    rig.come(5)


def test_a_guest_of_a_network_uses_a_slot_until_it_runs(make_rig: MakeSlotsRig) -> None:
    rig = make_rig()
    rig.call("migrate", network_guest(1))
    resolved = guest(1, rig.memory.vfs[0])
    for operation in ("prepare", "start"):
        rig.call(operation, resolved if operation == "start" else network_guest(1))
    (claim,) = rig.store.all()
    assert claim.incoming
    assert rig.hook_handler.slots.guests(PF) == ["guest1"]
    rig.arrived(1)
    assert rig.hook_handler.slots.guests(PF) == []


def test_a_vf_chosen_by_libvirt_must_be_compatible(make_rig: MakeSlotsRig) -> None:
    """With cards that differ in one pool, libvirt may choose one that does not fit although others would."""
    rig = make_rig()
    xml = network_guest(1)
    rig.call("migrate", xml)
    resolved = guest(1, rig.memory.vfs[0], marks="pool='data' vlan='42' firmware='28.1.1'")
    with pytest.raises(Refused, match=r"firmware is 28.1.1 on the source"):
        rig.call("start", resolved)
    assert rig.store.all() == []


@pytest.mark.parametrize("taker", [True, False])
def test_a_guest_without_marks_is_taken_only_where_a_pool_says_so(
    make_rig: MakeSlotsRig, taker: bool
) -> None:
    rig = make_rig()
    pool = replace(rig.config.pools["data"], unmarked="take" if taker else "ignore")
    config = Config({"data": pool})
    converger = Converger(rig.memory.host, config, rig.store)
    operations = HookHandler(replace(rig.services, config=config, converger=converger))
    xml = guest(1, ELSEWHERE)
    bare = xml[: xml.index("<metadata>")] + xml[xml.index("<devices>") :]
    answer = operations.handle("migrate", "begin", "-", bare)
    if not taker:
        assert answer is None
        assert rig.store.all() == []
        return
    assert answer is not None
    (claim,) = rig.store.all()
    assert domain_xml.read(answer).interfaces[0].address == claim.vf
