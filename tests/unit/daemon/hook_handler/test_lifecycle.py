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
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.unit.daemon.lifecycle_world import CLEAN, ENDINGS, FORMS, GRACE, VFS, World

GUESTS = st.integers(1, 3)
INDEX = st.integers(0, VFS - 1)
INDEXES = st.lists(INDEX, min_size=1, max_size=2, unique=True)
#: after how many writes the daemon dies, if it does
KILL = st.none() | st.integers(0, 12)


def _kills(call: int, kill: int) -> list[Optional[int]]:
    return [kill if call == number else None for number in range(CALLS)]


#: the calls of a guest's start or end, and what of them the daemon dies in, if in any
CALLS = 6
KILLS = st.builds(_kills, st.integers(0, 2 * CALLS), st.integers(0, 12))
NO_KILLS: list[Optional[int]] = [None] * CALLS
#: whether all works, and the daemon runs, before an event
CALM = st.booleans()


class Lifecycle(RuleBasedStateMachine):
    """What can happen; what must hold is in `World`."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="lifecycle-"))
        self.world = World(self.directory)

    def _begin(self, calm: bool) -> None:
        if calm:
            self.world.heal()
            self.world.start_daemon()

    @rule(calm=CALM, number=GUESTS, indexes=INDEXES, form=st.sampled_from(FORMS), kills=KILLS)
    def boot(
        self, calm: bool, number: int, indexes: list[int], form: str, kills: list[Optional[int]]
    ) -> None:
        self._begin(calm)
        self.world.boot(number, [self.world.vfs[index] for index in indexes], form=form, kills=kills)

    @rule(
        number=GUESTS, count=st.integers(1, 2), form=st.sampled_from(FORMS), begins=st.booleans(), kills=KILLS
    )
    def arrive(self, number: int, count: int, form: str, begins: bool, kills: list[Optional[int]]) -> None:
        self.world.arrive(number, count, form=form, begins=begins, kills=kills)

    @rule(calm=CALM, number=GUESTS, reconciles=st.booleans(), kills=KILLS)
    def boot_on_network(self, calm: bool, number: int, reconciles: bool, kills: list[Optional[int]]) -> None:
        self._begin(calm)
        self.world.boot_on_network(number, reconciles=reconciles, kills=kills)

    @rule(number=GUESTS, kill=KILL)
    def claim(self, number: int, kill: Optional[int]) -> None:
        self.world.claim(number, kill)

    @rule(number=GUESTS, kill=KILL)
    def give_back(self, number: int, kill: Optional[int]) -> None:
        self.world.give_back(number, kill)

    @precondition(lambda self: self.world.running)
    @rule(calm=CALM, which=GUESTS, ending=st.sampled_from(ENDINGS), kills=KILLS)
    def end(self, calm: bool, which: int, ending: str, kills: list[Optional[int]]) -> None:
        self._begin(calm)
        self.world.end(self._running(which), ending, kills)

    def _running(self, which: int) -> int:
        running = sorted(self.world.running)
        return running[which % len(running)]

    @rule(
        number=GUESTS,
        count=st.integers(1, 2),
        form=st.sampled_from(FORMS),
        ending=st.sampled_from(ENDINGS),
        kills=KILLS,
    )
    def live(self, number: int, count: int, form: str, ending: str, kills: list[Optional[int]]) -> None:
        """A guest comes and goes, and the daemon dies while it goes, if it dies."""
        self._begin(calm=True)
        self.world.end(number, CLEAN, NO_KILLS)
        self.world.arrive(number, count, form=form, begins=True, kills=NO_KILLS)
        self.world.end(number, ending, kills)

    @precondition(lambda self: self.world.running)
    @rule(which=GUESTS, heard=st.booleans(), kill=KILL)
    def unplug(self, which: int, heard: bool, kill: Optional[int]) -> None:
        self.world.unplug(self._running(which), heard=heard, kill=kill)

    @rule(kill=KILL)
    def reconcile(self, kill: Optional[int]) -> None:
        self.world.reconcile(kill)

    @rule(kill=KILL)
    def reconcile_later(self, kill: Optional[int]) -> None:
        """When claims of guests that are gone are no longer young."""
        self.world.pass_time(GRACE)
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
        self.world.invariants.check_reconciled()

    @rule()
    def settle(self) -> None:
        """A reservation expires, and then what was left under it is old."""
        self.world.heal()
        self.world.start_daemon()
        for _ in range(2):
            assert self.world.reconcile()
            self.world.pass_time(self.world.config.claim_timeout + GRACE)
        assert self.world.reconcile()
        self.world.invariants.check_settled()

    @invariant()
    def always(self) -> None:
        self.world.invariants.check_always()

    def teardown(self) -> None:
        try:
            self.settle()
            self.always()
        finally:
            self.world.kill_daemon()
            shutil.rmtree(self.directory)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None, derandomize=True, database=None
)
