# SPDX-License-Identifier: GPL-2.0-or-later
"""Who has a VF, as far as a host in memory shows it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Callable, Optional

import pytest

from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import POOL
from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import Claim
from vfmigrate.converge import vf_use
from vfmigrate.converge.vf_use import Sight, User, VfUse
from vfmigrate.errors import HostError
from vfmigrate.host.links import Link
from vfmigrate.model.pci import PciAddress

HOST_POOL = replace(POOL, free_vfs="host")


@pytest.fixture
def memory() -> MemoryHost:
    return MemoryHost()


def own_device(memory: MemoryHost, vf: PciAddress, *, up: bool = False, master: Optional[int] = None) -> Link:
    """Bind a VF to the host's driver; returns its network device."""
    memory.sysfs.bind(vf, memory.card.hardware.host_driver)
    (name,) = memory.sysfs.netdevs(vf)
    link = memory.links.find(name)
    assert link is not None
    memory.links.links[link.index] = replace(link, up=up, master=master)
    return memory.links.links[link.index]


def use_of(memory: MemoryHost, vf: PciAddress) -> tuple[Optional[VfUse], Optional[VfUse]]:
    """Who has a VF of a pool whose free VFs are ready, and of one whose free VFs the host has."""
    ready, by_host = (vf_use.unclaimed_use(memory.host, {vf: pool}) for pool in (POOL, HOST_POOL))
    return ready.get(vf), by_host.get(vf)


def test_a_vf_without_a_driver_is_free(memory: MemoryHost) -> None:
    assert use_of(memory, memory.vfs[0]) == (None, None)


def test_a_vf_bound_to_vfio_is_free_until_a_process_has_it(memory: MemoryHost) -> None:
    vf = memory.vfs[0]
    memory.sysfs.bind(vf, "vfio-pci")
    assert use_of(memory, vf) == (None, None)
    memory.sysfs.open_groups.add(str(vf))
    assert use_of(memory, vf) == (VfUse(User.PROCESS, "held by process 4711"),) * 2


def test_a_network_device_that_is_down_is_not_used(memory: MemoryHost) -> None:
    own_device(memory, memory.vfs[0])
    assert use_of(memory, memory.vfs[0]) == (None, None)


def test_a_network_device_that_is_up_is_used_unless_the_host_has_each_free_vf(memory: MemoryHost) -> None:
    device = own_device(memory, memory.vfs[0], up=True)
    used = VfUse(User.HOST, f"in use by this host as {device.name}")
    assert use_of(memory, memory.vfs[0]) == (used, None)


@pytest.mark.parametrize("up", [True, False])
def test_a_network_device_with_addresses_is_used(memory: MemoryHost, up: bool) -> None:
    device = own_device(memory, memory.vfs[0], up=up)
    memory.links.ip_addresses = {device.index: ["192.0.2.1/24", "2001:db8::1/64"]}
    used = VfUse(User.HOST, f"in use by this host as {device.name} (192.0.2.1/24, 2001:db8::1/64)")
    assert use_of(memory, memory.vfs[0]) == (used, used)


def test_a_port_of_a_bond_is_used(memory: MemoryHost) -> None:
    memory.links.links[7] = Link(7, "bond0", True, 1500, "")
    device = own_device(memory, memory.vfs[0], master=7)
    used = VfUse(User.HOST, f"in use by this host as {device.name} (a port of bond0)")
    assert use_of(memory, memory.vfs[0]) == (used, used)


def test_a_network_device_that_a_container_has_is_used(memory: MemoryHost) -> None:
    own_device(memory, memory.vfs[0])
    memory.sysfs.in_containers.add(str(memory.vfs[0]))
    used = VfUse(
        User.HOST,
        "in use through driver mlx5_core, and its network device is not in this network namespace "
        "(a container may have it)",
    )
    assert use_of(memory, memory.vfs[0]) == (used, used)


def fails(*_: object) -> None:
    raise HostError("permission denied")


@pytest.mark.parametrize(
    ("driver", "breaks"),
    [
        ("vfio-pci", lambda memory: setattr(memory.sysfs, "held", fails)),
        ("mlx5_core", lambda memory: setattr(memory.sysfs, "netdevs", fails)),
        ("mlx5_core", lambda memory: setattr(memory.links, "find", fails)),
        ("mlx5_core", lambda memory: setattr(memory.links, "addresses", fails)),
        ("vfio-pci", lambda memory: setattr(memory.sysfs, "driver", fails)),
    ],
)
def test_a_vf_whose_use_cannot_be_read_is_not_free(
    memory: MemoryHost, driver: str, breaks: Callable[[MemoryHost], None]
) -> None:
    memory.sysfs.bind(memory.vfs[0], driver)
    memory.sysfs.open_groups.add(str(memory.vfs[0]))
    breaks(memory)
    unknown = VfUse(User.UNKNOWN, "perhaps in use: permission denied")
    assert use_of(memory, memory.vfs[0]) == (unknown, unknown)


def test_a_network_device_that_rtnetlink_does_not_know_is_not_free(memory: MemoryHost) -> None:
    device = own_device(memory, memory.vfs[0])
    del memory.links.links[device.index]
    memory.links.find = lambda name: None  # type: ignore[method-assign]  # noqa: ARG005  (renamed meanwhile)
    unknown = VfUse(
        User.UNKNOWN, f"perhaps in use: its network device {device.name} is being renamed or moved"
    )
    assert use_of(memory, memory.vfs[0]) == (unknown, unknown)


@pytest.mark.parametrize("broken", [False, True])
def test_the_processes_are_walked_through_once_for_all_vfs(memory: MemoryHost, broken: bool) -> None:
    for vf in memory.vfs:
        memory.sysfs.bind(vf, "vfio-pci")
    opened = memory.vfs[1:3]
    memory.sysfs.open_groups.update(map(str, opened))
    walks: list[list[PciAddress]] = []
    held = memory.sysfs.held

    def walk(vfs: Iterable[PciAddress]) -> dict[PciAddress, int]:
        walks.append(list(vfs))
        if broken:
            raise HostError("permission denied")
        return held(vfs)

    memory.sysfs.held = walk  # type: ignore[method-assign]  # counts
    uses = vf_use.unclaimed_use(memory.host, dict.fromkeys(memory.vfs, POOL))
    assert walks == [opened]
    assert list(uses) == opened
    assert {use.user for use in uses.values()} == {User.UNKNOWN if broken else User.PROCESS}


def test_a_decision_knows_only_what_was_looked_at(memory: MemoryHost) -> None:
    free, held, others, new = memory.vfs
    sight = Sight(
        dict.fromkeys(memory.vfs, POOL), {free, held}, {held: VfUse(User.PROCESS, "held by process 1")}, {}
    )
    claim = Claim(others, "data", "u", "guest1", claim_store.PLUGGED, 0.0)
    assert sight.use(free, None) is None
    assert sight.use(held, None) == VfUse(User.PROCESS, "held by process 1")
    assert sight.use(others, claim) == VfUse(User.GUEST, "held by guest 'guest1'")
    assert [sight.is_idle(vf) for vf in memory.vfs] == [True, False, False, False]
    assert not sight.outdated
    use = sight.use(new, None)
    assert use is not None
    assert use.user is User.UNKNOWN
    assert sight.outdated
