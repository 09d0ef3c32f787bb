# SPDX-License-Identifier: GPL-2.0-or-later
"""How much the events of a guest ask of the host does not grow with the VFs of the host, or no faster than these."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.fakes.counted import counted
from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import Rig


def questions(directory: Path, vfs: int) -> Counter[str]:
    """What is asked of a host with that many free VFs, from the arrival of a guest to its end."""
    directory.mkdir()
    memory = MemoryHost(vfs=vfs)
    counts = counted(memory)
    with Rig(directory, memory) as rig:
        rig.leave(rig.arrive(guest(1, ELSEWHERE)))  # as in a daemon that has run for a while
        counts.clear()
        rig.leave(rig.arrive(guest(1, ELSEWHERE)))
    return counts


def test_netlink_and_open_vswitch_are_asked_as_much_with_many_vfs_as_with_few(tmp_path: Path) -> None:
    few, many = (
        {name: count for name, count in questions(tmp_path / str(vfs), vfs).items() if "sysfs" not in name}
        for vfs in (2, 8)
    )
    assert many == few
    assert few["devlink.info"] == 1


def test_sysfs_is_asked_the_same_for_each_further_vf(tmp_path: Path) -> None:
    few, more, most = (sum(questions(tmp_path / str(vfs), vfs).values()) for vfs in (2, 5, 8))
    assert most - more == more - few
    assert most - more <= 3 * 4
