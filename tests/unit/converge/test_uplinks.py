# SPDX-License-Identifier: GPL-2.0-or-later
"""The uplinks of a pool, and the MTU that the representors have from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional

import pytest

from tests.fakes.counted import counted
from tests.fakes.guest_xml import guest
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import PF, POOL, Rig
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge import uplinks
from vfmigrate.errors import HostError
from vfmigrate.host.links import Link

BOND = Link(77, "bond0", True, 4000, "02:00:00:00:00:01")

MakeRig = Callable[[Pool], Rig]


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[MakeRig]:
    with ExitStack() as rigs:
        yield lambda pool: rigs.enter_context(Rig(tmp_path, config=Config({pool.name: pool})))


def set_uplink_mtu(rig: Rig, mtu: int) -> None:
    link = uplinks.physical_port(rig.memory.host, PF)
    rig.memory.links.links[link.index] = replace(link, mtu=mtu)


def mtu_of_representor(rig: Rig, index: int) -> int:
    port = rig.memory.devlink.vf_ports(PF)[index]
    assert port.ifindex is not None
    return rig.memory.links.link(port.ifindex).mtu


@pytest.mark.parametrize(
    ("pool", "mtu"),
    [
        (POOL, 9000),
        (replace(POOL, mtu=2000), 2000),
        (replace(POOL, uplink="bond0"), 4000),
        (replace(POOL, uplink="none"), 1500),
        (replace(POOL, uplink="absent"), 1500),
    ],
    ids=["PF", "pool", "bond", "none", "absent"],
)
def test_a_representor_has_the_mtu_of_the_pool_or_else_of_the_uplink(
    make_rig: MakeRig, pool: Pool, mtu: int
) -> None:
    rig = make_rig(pool)
    rig.memory.links.links[BOND.index] = BOND
    set_uplink_mtu(rig, 9000)
    rig.run(guest(1, rig.memory.vfs[0]))
    assert mtu_of_representor(rig, 0) == mtu


def test_the_uplink_is_asked_for_when_a_port_is_wanted_only(tmp_path: Path) -> None:
    memory = MemoryHost()
    counts = counted(memory)
    with Rig(tmp_path, memory) as rig:
        rig.call("prepare", guest(1, memory.vfs[0]))
        assert counts["links.link"] == 1  # the representor
        counts.clear()
        rig.call("start", guest(1, memory.vfs[0]))
        assert counts["links.link"] == 2


def test_a_changed_mtu_of_the_uplink_is_followed(make_rig: MakeRig) -> None:
    rig = make_rig(POOL)
    rig.run(guest(1, rig.memory.vfs[0]))
    assert rig.memory.vfs[0] not in rig.converger.survey(PF)
    set_uplink_mtu(rig, 9000)
    assert rig.memory.vfs[0] in rig.converger.survey(PF)
    rig.converger.converge(rig.memory.vfs[0])
    assert mtu_of_representor(rig, 0) == 9000


@pytest.mark.parametrize(
    ("uplink", "names"), [("none", []), ("bond0", ["bond0"]), (None, ["enp1s0f0np0"])], ids=str
)
def test_the_uplinks_of_a_pool(make_rig: MakeRig, uplink: Optional[str], names: list[str]) -> None:
    pool = replace(POOL, uplink=uplink) if uplink is not None else POOL
    rig = make_rig(pool)
    rig.memory.links.links[BOND.index] = BOND
    assert [link.name for link in uplinks.devices(rig.memory.host, pool)] == names


def test_an_uplink_that_is_absent(make_rig: MakeRig) -> None:
    pool = replace(POOL, uplink="bond9")
    with pytest.raises(
        HostError, match=r"\[pool data\] uplink: there is no network device bond9; see ip link"
    ):
        uplinks.devices(make_rig(pool).memory.host, pool)
