# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrated is killed at every system call that writes during one migration and release, on each of the two hosts.

First the calls are counted; then one migration is run for each call, and the daemon dies just before it makes that
call. It is started again alternately as soon as it has died, as systemd does, or after the migration has ended. Then
the guest must run on exactly one host, and once the daemons have reconciled, both hosts must look as if nothing had
happened.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import SubprocessError
from typing import Callable

from tests.background import beside
from tests.fakes import preload
from tests.integration.hosts import wait_for
from tests.integration.journey import NAME, PATIENCE_S, Journey, told
from tests.integration.pair import SHIMS, Node, Outcome, Pair, start_products, started_pair
from tests.soak.tally import FAULTS, Tally
from tests.testbed import images
from tests.testbed.run import CommandError

KILL_SHIM = "/usr/local/lib/kill_shim.so"
COUNTER = "/run/kill/counter"
# Longer than reservations last and than the daemon leaves young claims alone, so that both are over when it starts.
LATER_S = 300
WATCH_S = 0.05
# How long a daemon is still busy after a migration: it announces and writes metadata.
QUIET_S = 1.5

FAILURES = (AssertionError, TimeoutError, CommandError, OSError, RuntimeError, SubprocessError)


class Mortal:
    """A host's daemon that can be made to die at a system call."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.deaths = 0
        file = node.host.path(COUNTER)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(16))
        with file.open("r+b") as opened:
            self._shared = mmap.mmap(opened.fileno(), 16)
        node.product.environment.update(LD_PRELOAD=f"{KILL_SHIM}:{SHIMS['LD_PRELOAD']}", KILL_AT=COUNTER)

    def arm(self, die_at: int) -> None:
        """Start counting at 0; die at this call, or never if 0."""
        self._shared[:] = struct.pack("QQ", 0, die_at)

    def calls(self) -> int:
        """The number of calls since `aim`."""
        return int(struct.unpack("QQ", self._shared[:])[0])

    def revive(self) -> None:
        """Start the daemon again if it has died."""
        if self.node.product.has_died():
            self.deaths += 1
            self.arm(0)
            self.node.product.bury()
            self.node.product.restart()


class Sweep:
    """The guest migrates there and back; in every migration one of the daemons dies."""

    def __init__(self, pair: Pair, tally: Tally) -> None:
        self._tally = tally
        self._pair = pair
        self._mortals = {node.host.name: Mortal(node) for node in (pair.a, pair.b)}
        start_products(pair)
        self._journey = Journey(pair)
        self._journey.learn()
        self._at_home = True

    def run(self, stride: int) -> None:
        """Count the calls of both roles and then die at each, or at every `stride`th."""
        for role in ("destination", "source"):
            calls = self._count(role)
            self._tally.measured[f"calls_of_the_{role}"] = calls
            print(f"the {role}'s daemon makes {calls} calls that write", flush=True)
            reached = 0
            for number in range(1, calls + 1, stride):
                reached += self._die(role, number)
            self._tally.measured[f"deaths_of_the_{role}"] = reached

    def _nodes(self) -> tuple[Node, Node]:
        a, b = self._pair.a, self._pair.b
        return (a, b) if self._at_home else (b, a)

    def _mortal(self, role: str) -> Mortal:
        source, destination = self._nodes()
        return self._mortals[(source if role == "source" else destination).host.name]

    def _count(self, role: str) -> int:
        """The number of calls of a daemon in an undisturbed migration, the larger of both directions."""
        counts = []
        for _ in range(2):
            mortal = self._mortal(role)
            mortal.arm(0)
            outcome = self._migrate()
            assert outcome.status == 0, outcome.error
            time.sleep(QUIET_S)
            counts.append(mortal.calls())
            assert self._settled()
        return max(counts)

    def _migrate(self) -> Outcome:
        source, destination = self._nodes()
        return source.migrate(NAME, destination)

    def _die(self, role: str, number: int) -> bool:
        """One migration in which a daemon dies; returns whether it did (there can be fewer calls this time)."""
        mortal = self._mortal(role)
        where = f"call {number} of the {role} ({mortal.node.host.name})"
        self._tally.tried += 1
        deaths = mortal.deaths
        try:
            mortal.arm(number)
            with revived(mortal) if number % 2 else ExitStack():
                outcome = self._migrate()
                quiet(lambda: mortal.deaths > deaths or mortal.calls() >= number)
            if mortal.deaths == deaths and mortal.calls() >= number:
                wait_for("the daemon to be dead", mortal.node.product.has_died)
            mortal.revive()
            mortal.arm(0)
            if not self._settled():
                self._tally.fail(f"{where}: {self._differences()}; virsh said: {outcome.error or 'nothing'}")
                self._begin_anew()
            elif outcome.status != 0 and "vfmigrate" not in outcome.error:
                self._tally.fail(f"{where}: virsh says nothing of vfmigrate: {outcome.error}")
        except FAILURES as error:
            self._tally.fail(f"{where}: {type(error).__name__}: {error}")
            self._begin_anew()
        return mortal.deaths > deaths

    def _settled(self) -> bool:
        """Reconcile both hosts once after reservations have expired; returns whether they look as they should."""
        a, b = self._pair.a, self._pair.b
        self._at_home = not self._journey.is_away()
        wanted = self._journey.home if self._at_home else self._journey.away
        if not quiet(lambda: self._journey.states() == wanted, seconds=0.5):
            for node in (a, b):
                node.product.stop()
                node.product.age_claims(LATER_S)
                node.product.restart()
                node.reconcile()
        return quiet(lambda: self._journey.states() == wanted, seconds=PATIENCE_S / 4)

    def _differences(self) -> str:
        wanted = self._journey.home if self._at_home else self._journey.away
        return "; ".join(
            f"{node.host.name}: {name} is {getattr(now, name)}, should be {getattr(then, name)}"
            for node, then in zip((self._pair.a, self._pair.b), wanted)
            for now in [told(node.state())]
            for name in vars(then)
            if getattr(now, name) != getattr(then, name)
        )

    def _begin_anew(self) -> None:
        """Reset both hosts, so that one failure does not cause others."""
        for mortal in self._mortals.values():
            mortal.arm(0)
            if mortal.node.product.has_died():
                mortal.node.product.bury()
        self._pair.reset()
        start_products(self._pair)
        self._journey.begin()
        self._at_home = True


def quiet(condition: Callable[[], bool], seconds: float = QUIET_S) -> bool:
    """Wait at most this long for a condition; returns whether it became true."""
    try:
        wait_for("it", condition, seconds)
    except TimeoutError:
        return False
    return True


@contextmanager
def revived(mortal: Mortal) -> Iterator[None]:
    """Start the daemon again as soon as it has died, as systemd does."""

    def watch(over: threading.Event) -> None:
        while not over.wait(WATCH_S):
            mortal.revive()

    with beside(watch):
        yield


def run(stride: int) -> Tally:
    """Sweep with its own pair of hosts."""
    tally = Tally("daemon killed at every write", FAULTS)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place, started_pair(images.host_root(), Path(place)) as pair:
        shim = preload.build("kill_shim", Path(place))
        for node in (pair.a, pair.b):
            shutil.copy(shim, node.host.path(KILL_SHIM))
        pair.reset()
        Sweep(pair, tally).run(stride)
        for node in (pair.a, pair.b):
            node.reset()
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
