# SPDX-License-Identifier: GPL-2.0-or-later
"""Something outside takes time during one guest's event: the event ends in its time, and no other guest waits.

Times are a thirtieth of the daemon's: what takes 2 s, 8 s or for ever beside an event of 50 s takes 70 ms, 270 ms or
for ever beside one of 1.7 s. Open vSwitch is a real one that is stopped (SIGSTOP), devlink a fake kernel that is slow
to answer for one card, sysfs a file that nobody reads. No event of a guest waits for libvirt; what waits for it is
tested in tests/unit/daemon/test_event_loop.py.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Optional, cast

import pytest

from tests.background import beside
from tests.fakes.card import SWITCHDEV, Card
from tests.fakes.card_sysfs import CardSysfs
from tests.fakes.devlink_server import DevlinkServer
from tests.fakes.guest_xml import ELSEWHERE, guest
from tests.fakes.hardware import Hardware, Netdev
from tests.fakes.memory_host import MemoryHost
from tests.fakes.rig import Rig
from tests.integration.ovs_server import OvsServer, in_network
from tests.patience import PATIENCE
from vfmigrate import deadline, uninterruptible
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.daemon import hook_handler
from vfmigrate.daemon.watchdog import EVENT_SECONDS
from vfmigrate.errors import VfmigrateError
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.links import Links
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.sysfs_files import write_text
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import OpenVswitch
from vfmigrate.polling import until
from vfmigrate.reservations import reservation
from vfmigrate.reservations.cleanup import CLEAN_UP_SECONDS

SCALE = 30.0
EVENT_S = EVENT_SECONDS / SCALE
CLEAN_UP_S = CLEAN_UP_SECONDS / SCALE
SWITCH_S = 5.0 / SCALE
#: what an event may take longer, and another guest's at most, on a busy machine
MARGIN_S = 1.5 * PATIENCE
TWO_S, EIGHT_S, FOR_EVER = 2 / SCALE, 8 / SCALE, 3600.0
PFS = PciAddress.parse("0000:01:00.0"), PciAddress.parse("0000:02:00.0")
POOLS = (
    Pool("data", (PFS[0],), "br-data", vlans=frozenset({42}), mtu=1500, max_migrating=12),
    Pool("other", (PFS[1],), "br-data", vlans=frozenset({42}), mtu=1500),
)
VFS = 12


@dataclass(frozen=True)
class Event:
    """An event of a guest: how long it took in seconds, and why it failed if it did."""

    operation: str
    seconds: float
    error: Optional[VfmigrateError] = None


class GatedSysfs(CardSysfs):
    """Binds and unbinds after a write to a file of the device, which may hang."""

    def __init__(self, card: Card, place: Path) -> None:
        super().__init__(card)
        self._place = place

    def gate(self, device: PciAddress) -> Path:
        """The file of a device."""
        path = self._place / str(device)
        if not path.exists():
            path.touch()
        return path

    def unbind(self, device: PciAddress) -> None:
        write_text(self.gate(device), "x")
        super().unbind(device)

    def bind(self, device: PciAddress, driver: str) -> None:
        write_text(self.gate(device), "x")
        super().bind(device, driver)


class Veths:
    """Representors that Open vSwitch can use: the ends of veth pairs, made once."""

    def __init__(self, server: OvsServer) -> None:
        places = [(str(pf), vf) for pf in PFS for vf in range(VFS)]
        self._found = {place: Netdev(1000 + number, f"rep{number}") for number, place in enumerate(places)}
        server.namespace.run(
            "ip",
            "-batch",
            "-",
            stdin="".join(
                f"link add {each.name} index {each.ifindex} up type veth peer name {each.name}-far\n"
                for each in self._found.values()
            ),
        )

    def uplink(self, pf: str) -> Netdev:  # noqa: ARG002 - all have the loopback device, because it always exists
        """The PF's own."""
        return Netdev(1, "lo")

    def representor(self, pf: str, vf: int) -> Netdev:
        """A VF's."""
        return self._found[pf, vf]


class SlowHost(Rig):
    """Two cards with a pool each. What this module makes slow is the first card's or all cards' switch."""

    def __init__(self, place: Path, server: OvsServer, links: Links, netdevs: Veths) -> None:
        card = Card(tuple(map(str, PFS)), hardware=Hardware(total_vfs=VFS), netdevs=netdevs)
        memory = MemoryHost(vfs=VFS, card=card)
        card.autoprobe(str(PFS[1]), "0")
        card.numvfs(str(PFS[1]), str(VFS))
        card.set_eswitch_mode(str(PFS[1]), SWITCHDEV)
        self.server = server
        self.kernel = DevlinkServer(card)
        self.devlink = Devlink(connect=self.kernel.connect)
        self.switch = OpenVswitch(server.remote, timeout=SWITCH_S)
        (place / "gates").mkdir()
        self.sysfs = GatedSysfs(card, place / "gates")
        memory.host = replace(
            memory.host, devlink=self.devlink, ovs=self.switch, links=links, sysfs=cast("Sysfs", self.sysfs)
        )
        super().__init__(place, memory, Config({pool.name: pool for pool in POOLS}))
        self.vfs = {pf: [PciAddress.parse(card.vf(number, str(pf))) for number in range(VFS)] for pf in PFS}
        self.bind("vfio-pci", *self.vfs[PFS[0]], *self.vfs[PFS[1]])

    def bind(self, driver: str, *vfs: PciAddress) -> None:
        """Bind VFs, as libvirt or an administrator does; an event then takes the driver away: a write to sysfs."""
        for vf in map(str, vfs):
            self.memory.card.driver_override(vf, driver)
            self.memory.card.drivers_probe(vf)
            self.memory.card.driver_override(vf, "\n")

    def guest(self, number: int, vf: int, pf: PciAddress) -> str:
        """A guest with a VF of a card."""
        pool = next(pool.name for pool in POOLS if pf in pool.pfs)
        return guest(number, self.vfs[pf][vf], marks=f"pool='{pool}' vlan='42'")

    def event(self, operation: str, xml: str) -> Event:
        """Handle an event in the time that the daemon gives it."""
        begun = time.monotonic()
        error = None
        try:
            with deadline.within(hook_handler.seconds(operation, None, 0.0)):
                self.call(operation, xml)
        except VfmigrateError as failure:
            error = failure
        return Event(operation, time.monotonic() - begun, error)

    def life(self, xml: str) -> list[Event]:
        """All events of a guest, which does not start after a refusal."""
        events = []
        for operation in ("prepare", "start", "started"):
            events.append(self.event(operation, xml))
            if events[-1].error is not None:
                break
        return events + [self.event(operation, xml) for operation in ("stopped", "release")]

    def close(self) -> None:
        self.kernel.close()
        self.devlink.close()
        self.switch.close()
        super().close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OvsServer, Veths]]:
    with OvsServer(tmp_path_factory.mktemp("ovs")) as server:
        server.add_bridge("br-data")
        yield server, Veths(server)


@pytest.fixture
def host(
    server: tuple[OvsServer, Veths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlowHost]:
    monkeypatch.setattr(hook_handler, "EVENT_SECONDS", EVENT_S)
    monkeypatch.setattr(reservation, "CLEAN_UP_SECONDS", CLEAN_UP_S)
    switch, netdevs = server
    links = in_network(switch.namespace, Links)
    with SlowHost(tmp_path, switch, links, netdevs) as host:
        for pf, number in zip(PFS, (1, 2)):
            assert [each.error for each in host.life(host.guest(number, 0, pf))] == [None] * 5
        yield host
    links.close()


@contextmanager
def _until(seconds: float, end: Callable[[], None]) -> Iterator[None]:
    """Call `end` after some seconds, or when the context is left."""
    left = threading.Event()

    def wait() -> None:
        left.wait(seconds)
        end()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()


@contextmanager
def slow_devlink(host: SlowHost, seconds: float) -> Iterator[None]:
    """Each answer for the first card takes so long."""
    host.kernel.delays[str(PFS[0])] = seconds
    try:
        yield
    finally:
        host.kernel.delays.clear()


@contextmanager
def slow_sysfs(host: SlowHost, seconds: float) -> Iterator[None]:
    """What is written to a VF of the first card is not taken for so long: it is a FIFO that nobody reads."""
    gates = [host.sysfs.gate(vf) for vf in host.vfs[PFS[0]]]
    for gate in gates:
        gate.unlink()
        os.mkfifo(gate)

    def read() -> None:
        readers = [os.open(gate, os.O_RDONLY | os.O_NONBLOCK) for gate in gates]
        for reader in readers:
            stack.callback(os.close, reader)

    with ExitStack() as stack:
        with _until(seconds, read):
            yield
        assert until(lambda: uninterruptible.hung() == {}, 20.0, 0.01)
    for gate in gates:
        gate.unlink()
        gate.touch()


@contextmanager
def slow_database(host: SlowHost, seconds: float) -> Iterator[None]:
    """ovsdb-server is stopped for so long."""
    with ExitStack() as stopped:
        stopped.enter_context(host.server.database_halted())
        with _until(seconds, stopped.close):
            yield


@contextmanager
def slow_switch(host: SlowHost, seconds: float) -> Iterator[None]:
    """ovs-vswitchd is stopped for so long."""
    with ExitStack() as stopped:
        stopped.enter_context(host.server.switch_halted())
        with _until(seconds, stopped.close):
            yield


Slow = Callable[[SlowHost, float], AbstractContextManager[None]]
#: what is slow, and whether it is the first card's alone
DOORS: dict[str, tuple[Slow, bool]] = {
    "devlink": (slow_devlink, True),
    "sysfs": (slow_sysfs, True),
    "ovsdb-server": (slow_database, False),
    "ovs-vswitchd": (slow_switch, False),
}
#: what the error of an event that ran out of time names
NAMED = {
    "devlink": "kernel did not answer",
    "sysfs": "kernel did not answer within .* write",
    "ovsdb-server": "ovsdb-server",
    "ovs-vswitchd": "ovs-vswitchd did not configure",
}


@contextmanager
def another(host: SlowHost, events: list[Event]) -> Iterator[None]:
    """Meanwhile guests start and stop on the other card, one after the other."""

    def live(ended: threading.Event) -> None:
        while not ended.is_set():
            events.extend(host.life(host.guest(2, 0, PFS[1])))

    with beside(live):
        yield


@pytest.mark.parametrize("seconds", [TWO_S, EIGHT_S, FOR_EVER], ids=["2s", "8s", "for-ever"])
@pytest.mark.parametrize("door", DOORS)
def test_a_slow_door_delays_the_event_of_its_guest_in_bounds_and_no_other(
    host: SlowHost, door: str, seconds: float
) -> None:
    slow, of_one_card = DOORS[door]
    others: list[Event] = []
    with slow(host, seconds), another(host, others):
        events = host.life(host.guest(1, 1, PFS[0]))
    for event in events:
        assert event.seconds < EVENT_S + CLEAN_UP_S + MARGIN_S, event
    errors = [event.error for event in events if event.error is not None]
    if seconds == TWO_S:
        assert errors == []
    if seconds == FOR_EVER:
        assert len(errors) == 1, events
        assert errors[0].remedy
        assert re.search(NAMED[door], errors[0].problem), errors
    assert others
    for event in others:
        assert event.seconds < (MARGIN_S if of_one_card else EVENT_S + CLEAN_UP_S + MARGIN_S), event
        assert event.error is None or not of_one_card, event
    after = host.life(host.guest(1, 2, PFS[0]))
    assert [event.error for event in after] == [None] * 5


@pytest.mark.parametrize("door", ["ovsdb-server", "ovs-vswitchd"])
def test_a_guest_with_twelve_vfs_is_refused_in_time(host: SlowHost, door: str) -> None:
    """They were tried and given back one after the other, each for as long as Open vSwitch may take."""
    slow, _ = DOORS[door]
    xml = guest(3, *[ELSEWHERE] * VFS)
    with slow(host, FOR_EVER):
        arrival = host.event("migrate", xml)
    assert arrival.error is not None or door == "ovs-vswitchd"
    assert arrival.seconds < EVENT_S + CLEAN_UP_S + MARGIN_S


@pytest.mark.parametrize("door", ["ovsdb-server", "devlink", "sysfs"])
def test_a_guest_with_twelve_vfs_leaves_in_time(host: SlowHost, door: str) -> None:
    slow, _ = DOORS[door]
    xml = guest(3, *host.vfs[PFS[0]])
    for operation in ("prepare", "start", "started"):
        assert host.event(operation, xml).error is None
    host.bind(str(host.memory.card.hardware.variant_driver), *host.vfs[PFS[0]])
    with slow(host, FOR_EVER):
        for operation in ("stopped", "release"):
            assert host.event(operation, xml).seconds < EVENT_S + MARGIN_S
