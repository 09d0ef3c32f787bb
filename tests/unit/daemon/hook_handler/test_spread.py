# SPDX-License-Identifier: GPL-2.0-or-later
"""The VFs of a guest with a bond over two PFs, on a host in memory with two PFs in its pool."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from tests.fakes.card import Card
from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.memory_host import MemoryHost
from tests.fakes.networks import MemoryNetworks
from tests.fakes.rig import POOL, MakeRig, Rig
from vfmigrate.claims.claim_store import RESERVED, Claim
from vfmigrate.config.configuration import Config
from vfmigrate.domain import network_xml
from vfmigrate.errors import Refused
from vfmigrate.model.pci import PciAddress
from vfmigrate.provision.networks import Networks

PFS = ("0000:01:00.0", "0000:01:00.1")
A, B = (PciAddress.parse(pf) for pf in PFS)
THERE = (PciAddress(0, 0x81, 0, 0), PciAddress(0, 0x81, 0, 1))
OTHER = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def two(make_rig: MakeRig, request: pytest.FixtureRequest) -> Rig:
    """The parameter, if any, is the pool's max_migrating."""
    memory = MemoryHost(card=Card(PFS))
    memory.card.autoprobe(PFS[1], "0")
    memory.card.numvfs(PFS[1], "4")
    memory.card.set_eswitch_mode(PFS[1], "switchdev")
    pool = replace(POOL, pfs=(A, B), max_migrating=getattr(request, "param", None))
    config = Config({"data": pool}, migrating_wait=0)
    return make_rig(memory, config)


def bonded(pfs: tuple[PciAddress, ...] = THERE, memory: str = "") -> str:
    """A guest that arrives with VFs of these PFs."""
    vfs = [replace(ELSEWHERE, function=2 + index) for index in range(len(pfs))]
    xml = guest(1, *vfs).replace("<devices>", f"{memory}<devices>")
    for index, pf in enumerate(pfs):
        xml = xml.replace(
            f"vf mac='52:54:00:00:01:{index:02x}'", f"vf mac='52:54:00:00:01:{index:02x}' pf='{pf}'"
        )
    return xml


def pfs_of(rig: Rig) -> list[PciAddress]:
    claims = sorted(
        (each for each in rig.store.all() if each.domain_name == "guest1"), key=lambda each: each.mac or ""
    )
    return [pf for each in claims if (pf := rig.memory.sysfs.physfn(each.vf)) is not None]


def hold(rig: Rig, pf: PciAddress, number: int, **changes: object) -> None:
    """Another guest has VFs of a PF."""
    for vf in rig.memory.sysfs.vfs(pf)[:number]:
        claim = Claim(vf, "data", OTHER, "other", RESERVED, 0.0)
        rig.store.put(replace(claim, **changes))  # type: ignore[arg-type]  # fields by name


def test_a_bond_over_two_pfs_arrives_on_two_pfs(two: Rig) -> None:
    two.arrive(bonded())
    assert sorted(pfs_of(two)) == [A, B]


def test_a_bond_that_cannot_be_spread_arrives_with_a_warning(
    two: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    hold(two, A, 4)
    two.arrive(bonded())
    assert pfs_of(two) == [B, B]
    assert (
        f"guest 'guest1' has VFs of pool 'data' on PF {B} that were on different PFs"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("two", [3], indirect=True)
def test_a_bond_waits_for_a_pf_that_migrates_others(two: Rig) -> None:
    """As many VFs of the PF are migrating as it can: the bond is not put on the other one for that."""
    hold(two, A, 3, incoming=True, expires=two.now + 100)
    with pytest.raises(Refused, match=f"3 VFs of PF {A} already migrating"):
        two.call("migrate", bonded())
    two.call("migrate", bonded(THERE[:1]))
    assert pfs_of(two) == [B]


def test_a_single_vf_is_near_the_memory_of_its_guest(two: Rig) -> None:
    two.memory.sysfs.numa_nodes = {A: 1, B: 0}
    two.call("migrate", bonded(THERE[:1], "<numatune><memory mode='strict' nodeset='1'/></numatune>"))
    assert pfs_of(two) == [A]


def test_the_pools_network_lists_a_vf_of_each_pf_in_turn(two: Rig) -> None:
    """Libvirt takes the first free ones: a guest of the network starts with VFs of two PFs."""
    libvirt = MemoryNetworks()
    Networks(two.config, two.memory.host, two.store, cast(Any, libvirt)).keep(two.config.pools["data"])
    vfs = network_xml.vfs(libvirt.live["vfmigrate-data"])
    assert [two.memory.sysfs.physfn(vf) for vf in vfs] == [A, B] * 4
