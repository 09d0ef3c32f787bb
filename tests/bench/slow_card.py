# SPDX-License-Identifier: GPL-2.0-or-later
"""`hook-beside-slow-card`, `hook-during-mode-change`: a guest's hooks while another card is busy, relative to idle.

A host in memory with two PFs, each with a pool; devlink is the daemon's own door to a fake kernel, which locks a PF
while it works for it, as the real one does. Measured are all events of a guest's life (prepare to release) on the
first PF. Meanwhile a guest starts on the second, whose devlink takes 8 seconds for each answer, or the second is
provisioned and takes 10 seconds to change its mode.
"""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Callable, cast

from tests.bench.measure import RUNS, Result
from tests.fakes.card import LEGACY, SWITCHDEV, Card
from tests.fakes.devlink_server import DevlinkServer
from tests.fakes.guest_xml import guest
from tests.fakes.memory_host import MemoryHost
from tests.fakes.networks import MemoryNetworks
from tests.fakes.rig import Rig
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import NONE, Pool
from vfmigrate.errors import VfmigrateError
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.udev import Udev
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.offload import HardwareOffload
from vfmigrate.provision.device_query import DeviceQuery
from vfmigrate.provision.networks import Networks
from vfmigrate.provision.provisioner import Provisioner

ANSWER_S, MODE_CHANGE_S = 8.0, 10.0
ROUNDS, HOOKS = 2, 20
AIM = 2.0
PFS = PciAddress.parse("0000:01:00.0"), PciAddress.parse("0000:02:00.0")
POOLS = (
    Pool("data", (PFS[0],), "br-data", vlans=frozenset({42}), uplink=NONE),
    Pool("other", (PFS[1],), "br-other", vlans=frozenset({42}), uplink=NONE, vfs=4),
)
_ESWITCH_SET = 30


class TwoCards(Rig):
    """A host with a pool on each of two PFs."""

    def __init__(self, place: Path) -> None:
        card = Card(tuple(map(str, PFS)))
        memory = MemoryHost(card=card)
        card.autoprobe(str(PFS[1]), "0")
        card.set_eswitch_mode(str(PFS[1]), SWITCHDEV)
        card.numvfs(str(PFS[1]), "4")
        memory.ovs.bridges.add("br-other")
        self.card = card
        self.server = DevlinkServer(card)
        self.door = Devlink(connect=self.server.connect)
        memory.host = replace(memory.host, devlink=self.door)
        self._journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._journal.bind(str(place / "journal"))
        threading.Thread(target=self._drop_log, daemon=True).start()
        super().__init__(place, memory, Config({pool.name: pool for pool in POOLS}), journal="journal")
        for pf in PFS:
            self.life(pf)  # as in a daemon that has run for a while, the ports are known

    def life(self, pf: PciAddress) -> None:
        """All events of a guest with a VF of a PF."""
        xml = guest(PFS.index(pf) + 1, self.memory.sysfs.vfs(pf)[0], marks="vlan='42'")
        self.run(xml)
        self.leave(xml, "shutdown")

    def provision(self) -> None:
        """Provision the pool of the second PF."""
        networks = Networks(self.config, self.memory.host, self.store, cast("Any", MemoryNetworks()))
        place = self.directory
        Provisioner(
            self.services,
            networks,
            udev=Udev(place / "udev", place / "owned"),
            offload=HardwareOffload(lambda _unit: None, note=place / "note"),
            query=DeviceQuery(self.services),
        ).provision(["other"])

    def close(self) -> None:
        """Let the fake kernel answer at once what waits, and close."""
        self.server.close()
        self.door.close()
        super().close()
        self._journal.shutdown(socket.SHUT_RD)

    def _drop_log(self) -> None:
        while self._journal.recv(1 << 16):
            pass
        self._journal.close()


def results() -> list[Result]:
    """Measure both ratios."""
    return [
        _result("hook-beside-slow-card", _slow, ANSWER_S),
        _result("hook-during-mode-change", _mode_change, MODE_CHANGE_S),
    ]


def _result(name: str, busy: Callable[[TwoCards, float], None], seconds: float) -> Result:
    runs = [hooks(busy, ROUNDS, seconds) for _ in range(RUNS)]
    idle_ms = median(idle for idle, _ in runs) * 1000
    against = f"relative to an idle host ({idle_ms:.1f} ms)"
    return Result(name, [beside / idle for idle, beside in runs], AIM, against)


def _slow(host: TwoCards, seconds: float) -> None:
    host.server.delays[str(PFS[1])] = seconds
    host.life(PFS[1])


def _mode_change(host: TwoCards, seconds: float) -> None:
    host.server.mode_change = seconds
    host.card.numvfs(str(PFS[1]), "0")
    host.card.set_eswitch_mode(str(PFS[1]), LEGACY)
    host.provision()


def hooks(busy: Callable[[TwoCards, float], None], rounds: int, seconds: float) -> tuple[float, float]:
    """The median time of a guest's hooks on the first PF in seconds: on an idle host, and while the second is busy."""
    idle: list[float] = []
    beside: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="vfmigrate-bench-") as place, TwoCards(Path(place)) as host:
            idle += _times(host)
            with _meanwhile(host, busy, seconds):
                beside += _times(host)
    return median(idle), median(beside)


def _times(host: TwoCards) -> list[float]:
    times = []
    for _ in range(HOOKS):
        begun = time.perf_counter()
        host.life(PFS[0])
        times.append(time.perf_counter() - begun)
    return times


@contextmanager
def _meanwhile(host: TwoCards, busy: Callable[[TwoCards, float], None], seconds: float) -> Iterator[None]:
    """Another thread keeps the second PF busy, from the moment when the fake kernel works on what takes long."""

    def work() -> None:
        with suppress(VfmigrateError):
            busy(host, seconds)

    seen = len(host.server.requests)
    thread = threading.Thread(target=work)
    thread.start()
    while not any(_takes_long(busy, request.command) for request in host.server.requests[seen:]):
        if not thread.is_alive():
            raise RuntimeError("the second PF is not busy")
        time.sleep(0.001)
    yield
    host.server.close()
    thread.join()


def _takes_long(busy: Callable[[TwoCards, float], None], command: int) -> bool:
    return busy is _slow or command == _ESWITCH_SET
