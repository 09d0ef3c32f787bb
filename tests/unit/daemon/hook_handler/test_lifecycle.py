# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests come and go in any order, the daemon dies at any write, disk and switch fail: what must hold, holds.

Hypothesis chooses what happens, and shortens what it finds. The examples are the same in every run; `make soak` runs
more of them, chosen at random (profile `soak`).
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path
from typing import Optional

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.daemon.lifecycle_world import GRACE, VFS, World

GUESTS = st.integers(1, 3)
INDEX = st.integers(0, VFS - 1)
INDEXES = st.lists(INDEX, min_size=1, max_size=2, unique=True)
#: after how many writes the daemon dies; mostly it does not
KILL = st.one_of(st.none(), st.none(), st.integers(0, 14))
KILLS = st.lists(KILL, min_size=6, max_size=6)


class Lifecycle(RuleBasedStateMachine):
    """What can happen; what must hold is in `World`."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="lifecycle-"))
        self.world = World(self.directory)

    @rule(number=GUESTS, indexes=INDEXES, managed=st.booleans(), kills=KILLS)
    def boot(self, number: int, indexes: list[int], managed: bool, kills: list[Optional[int]]) -> None:
        self.world.boot(number, [self.world.vfs[index] for index in indexes], managed=managed, kills=kills)

    @rule(number=GUESTS, count=st.integers(1, 2), begins=st.booleans(), kills=KILLS)
    def arrive(self, number: int, count: int, begins: bool, kills: list[Optional[int]]) -> None:
        self.world.arrive(number, count, begins=begins, kills=kills)

    @rule(number=GUESTS, reconciles=st.booleans(), kills=KILLS)
    def boot_on_network(self, number: int, reconciles: bool, kills: list[Optional[int]]) -> None:
        self.world.boot_on_network(number, reconciles=reconciles, kills=kills)

    @rule(number=GUESTS, kill=KILL)
    def claim(self, number: int, kill: Optional[int]) -> None:
        self.world.claim(number, kill)

    @rule(number=GUESTS, kill=KILL)
    def give_back(self, number: int, kill: Optional[int]) -> None:
        self.world.give_back(number, kill)

    @rule(number=GUESTS, killed_libvirtd=st.booleans(), kills=KILLS)
    def end(self, number: int, killed_libvirtd: bool, kills: list[Optional[int]]) -> None:
        self.world.end(number, killed_libvirtd=killed_libvirtd, kills=kills)

    @rule(number=GUESTS, heard=st.booleans(), kill=KILL)
    def unplug(self, number: int, heard: bool, kill: Optional[int]) -> None:
        self.world.unplug(number, heard=heard, kill=kill)

    @rule(kill=KILL)
    def reconcile(self, kill: Optional[int]) -> None:
        self.world.reconcile(kill)

    @rule()
    def kill_daemon(self) -> None:
        self.world.kill_daemon()

    @rule()
    def start_daemon(self) -> None:
        self.world.start_daemon()

    @rule(seconds=st.sampled_from([1.0, GRACE, 130.0, 100_000.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(down=st.booleans())
    def switch(self, down: bool) -> None:
        self.world.host.ovs.down = down

    @rule(number=st.sampled_from([errno.ENOSPC, errno.EROFS, errno.EPERM]), index=st.none() | INDEX)
    def fail_disk(self, number: int, index: Optional[int]) -> None:
        self.world.fail_disk(number, str(self.world.vfs[index]) if index is not None else None)

    @rule()
    def lose_libvirt(self) -> None:
        self.world.libvirt.domains = None

    @rule()
    def heal(self) -> None:
        self.world.heal()

    @rule(index=INDEX, driver=st.sampled_from([None, "vfio-pci", "mlx5_core"]))
    def touch(self, index: int, driver: Optional[str]) -> None:
        self.world.touch(self.world.vfs[index], driver)

    @rule(index=INDEX, on=st.booleans())
    def use_by_host(self, index: int, on: bool) -> None:
        self.world.use_by_host(self.world.vfs[index], on)

    @rule()
    def all_is_well_after_one_reconcile(self) -> None:
        """Nothing needs a second one, but for young claims and for what no claim explains."""
        self.world.heal()
        self.world.start_daemon()
        self.world.pass_time(GRACE)
        assert self.world.reconcile()
        self.world.check_reconciled()

    @rule()
    def settle(self) -> None:
        """A reservation expires, and then what was left under it is old."""
        self.world.heal()
        self.world.start_daemon()
        for _ in range(2):
            assert self.world.reconcile()
            self.world.pass_time(self.world.config.claim_timeout + GRACE)
        assert self.world.reconcile()
        self.world.check_settled()

    @invariant()
    def always(self) -> None:
        self.world.check_always()

    def teardown(self) -> None:
        try:
            self.settle()
            self.always()
        finally:
            self.world.kill_daemon()
            shutil.rmtree(self.directory)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True, database=None
)
