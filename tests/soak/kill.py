# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests migrate to and fro for a given time while daemons of both hosts are killed (SIGKILL) at random moments.

In each round some of the guests migrate at once, and one service of one host is killed: vfmigrated in every second
round, libvirtd, ovs-vswitchd and ovsdb-server in turn in the others. It is started again at once or when the
migrations have ended. Then both hosts must converge by themselves: the daemons reconcile every few seconds, and
nobody helps them. Judged are invariants, from what libvirt, sysfs, devlink and Open vSwitch show:

- each guest runs on exactly one host and has one VF there, which no other guest has;
- each such VF has one claim, one port with the guest's VLAN, its link and the guest's MAC, and nothing else has one;
- a free VF has no driver, `driver_override` or MAC, and its link is down.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import SubprocessError, TimeoutExpired
from typing import Any

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.pair import VFS, Migration, Node, Pair, State, start_products, started_pair
from tests.integration.test_migration import vfs_of
from tests.patience import PATIENCE
from tests.soak.tally import FAULTS, Tally
from tests.testbed import images
from tests.testbed.run import CommandError

GUESTS = 3
VLAN = 42
VARIANT = "mlx5_vfio_pci"
# So short that what only time can tell, such as a guest that never comes, does not make the rounds long.
CLAIM_TIMEOUT_S = round(20 * PATIENCE)
RECONCILE_S = 3
#: how long the hosts may take to converge: reservations expire, left-overs get old, and a reconcile follows
CONVERGE_S = 60.0
#: the longest time after the start of the migrations at which a service is killed; they take about a second
LATEST_KILL_S = 2.5

#: how long a guest must stay paused before an administrator would look
LIBVIRT_S = 5.0

VFMIGRATED = "vfmigrated"
PID_FILES = {
    "libvirtd": "/run/libvirtd.pid",
    "ovs-vswitchd": "/run/openvswitch/ovs-vswitchd.pid",
    "ovsdb-server": "/run/openvswitch/ovsdb-server.pid",
}
FAILURES = (AssertionError, TimeoutError, CommandError, OSError, RuntimeError, SubprocessError)


@dataclass
class Figures:
    """What happened, for the report."""

    killed: Counter[str] = field(default_factory=Counter)
    #: migrations by outcome
    arrived: int = 0
    failed: int = 0
    #: seconds from the end of the migrations until the hosts were as they should be
    converged: list[float] = field(default_factory=list)
    #: guests that libvirt left paused on the source, because it died when the destination had taken over
    paused: int = 0

    def as_json(self) -> dict[str, Any]:
        """The figures for the report."""
        times = sorted(self.converged)
        return {
            "killed": dict(sorted(self.killed.items())),
            "migrations_arrived": self.arrived,
            "migrations_failed": self.failed,
            "converged_s_median": times[len(times) // 2] if times else None,
            "converged_s_longest": times[-1] if times else None,
            "left_paused_by_libvirt": self.paused,
        }


def guests(pair: Pair) -> list[Guest]:
    """The guests, each with a VF of the first host, where they start."""
    return [
        Guest(f"g{number}", [Vf(pair.a.vf(number), f"52:54:00:00:01:{number:02x}", vlan=VLAN)], number=number)
        for number in range(1, GUESTS + 1)
    ]


class Kills:
    """The rounds, on a pair of hosts of their own."""

    def __init__(self, pair: Pair, tally: Tally, chance: random.Random) -> None:
        self._pair = pair
        self._tally = tally
        self._chance = chance
        self._nodes = (pair.a, pair.b)
        self.figures = Figures()
        self._begin()

    def _begin(self) -> None:
        start_products(self._pair, claim_timeout=CLAIM_TIMEOUT_S, reconcile_interval=RECONCILE_S)
        self._empty = {node.host.name: node.state() for node in self._nodes}
        self._guests = guests(self._pair)
        for guest in self._guests:
            self._pair.a.start_guest(guest)

    def run(self, seconds: float) -> None:
        """Do rounds for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._tally.tried += 1
            service = VFMIGRATED
            if self._tally.tried % 2 == 0:
                service = list(PID_FILES)[self._tally.tried // 2 % len(PID_FILES)]
            node = self._chance.choice(self._nodes)
            what = f"round {self._tally.tried}: {service} of {node.host.name} killed"
            try:
                self._round(service, node)
                wrong = self._converge(service)
            except FAILURES as error:
                wrong = [f"{type(error).__name__}: {error}"]
            if wrong:
                self._tally.fail(f"{what}: {'; '.join(wrong)}")
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Reset both hosts, so that one failure does not cause others."""
        for node in self._nodes:
            if node.product.has_died():
                node.product.bury()
            self._revive(node)
        self._pair.reset()
        self._begin()

    # -- one round

    def _round(self, service: str, node: Node) -> None:
        migrations = self._start_migrations()
        time.sleep(self._chance.uniform(0.0, LATEST_KILL_S))
        self.figures.killed[f"{service} of {node.host.name}"] += 1
        if service == VFMIGRATED:
            node.product.stop("KILL")
        else:
            node.host.stop(PID_FILES[service], "KILL")
        if self._chance.random() < 0.5:
            self._revive(node)
        for migration in migrations:
            try:
                outcome = migration.finish()
            except TimeoutExpired:
                migration.kill()
                raise
            if outcome.status == 0:
                self.figures.arrived += 1
            else:
                self.figures.failed += 1
        self._revive(node)

    def _start_migrations(self) -> list[Migration]:
        """Have one guest or several migrate at once, from wherever they are."""
        moving = self._chance.sample(self._guests, self._chance.randint(1, GUESTS))
        migrations = []
        for guest in moving:
            source = next(node for node in self._nodes if guest.name in node.host.domains())
            (target,) = (node for node in self._nodes if node is not source)
            migrations.append(source.begin_migration(guest.name, target))
        return migrations

    @staticmethod
    def _revive(node: Node) -> None:
        """Start again what does not run, in the order in which systemd would."""
        host = node.host
        if host.pid_of(PID_FILES["ovsdb-server"]) is None:
            host.start_database()
        if host.pid_of(PID_FILES["ovs-vswitchd"]) is None:
            host.start_vswitchd()
        if host.pid_of(PID_FILES["libvirtd"]) is None:
            node.start_libvirtd()
        if not node.product.is_running():
            node.product.restart()

    # -- what must hold afterwards

    def _converge(self, service: str) -> list[str]:
        """Wait until the hosts are as they should be; what is wrong, in words, when they are not in time."""
        begun = time.monotonic()
        if service == "libvirtd":
            self._help_libvirt()
        wrong: list[str] = []

        def is_well() -> bool:
            wrong[:] = self._wrong()
            return not wrong

        try:
            wait_for("both hosts to converge", is_well, CONVERGE_S)
        except TimeoutError:
            return wrong
        self.figures.converged.append(round(time.monotonic() - begun, 1))
        return []

    def _wrong(self) -> list[str]:
        """What is not as it should be on either host, in words."""
        states = {node.host.name: node.state() for node in self._nodes}
        wrong = []
        for guest in self._guests:
            places = {
                name: state.guests[guest.name] for name, state in states.items() if guest.name in state.guests
            }
            if list(places.values()) != ["running"]:
                wrong.append(f"guest '{guest.name}' is {places or 'nowhere'}")
        if wrong:
            return wrong  # the rest follows from it
        for node in self._nodes:
            found = self._wrong_on(node, states[node.host.name])
            wrong += [f"{node.host.name}: {each}" for each in found]
        return wrong

    def _wrong_on(self, node: Node, state: State) -> list[str]:
        """What is not as it should be on a host whose guests run."""
        holders: dict[str, Guest] = {}
        wrong = []
        for guest in self._guests:
            if guest.name not in state.guests:
                continue
            vfs = vfs_of(node.host.virsh("dumpxml", guest.name))
            if len(vfs) != 1 or vfs[0] in holders:
                wrong.append(f"guest '{guest.name}' has {vfs}, others have {sorted(holders)}")
            holders.update(dict.fromkeys(vfs, guest))
        empty = self._empty[node.host.name]
        wanted = {vf: (guest.uuid, "plugged") for vf, guest in holders.items()}
        if state.claims != wanted:
            wrong.append(f"claims are {state.claims}, should be {wanted}")
        wrong += _wrong_ports(node, state, holders)
        for index in range(VFS):
            vf, representor = node.vf(index), node.representor(index)
            found = (state.drivers[vf], state.overrides[vf], state.macs[index], state.links_up[representor])
            base = (empty.drivers[vf], empty.overrides[vf], empty.macs[index], empty.links_up[representor])
            if vf in holders:
                # driver_override is libvirt's as long as the guest has the VF
                base = (VARIANT, state.overrides[vf], holders[vf].vfs[0].mac, True)
            if found != base:
                wrong.append(f"VF {vf} has driver, override, MAC and link {found}, should have {base}")
        return wrong

    # -- where libvirt needs an administrator

    def _help_libvirt(self) -> None:
        """Do what an administrator must where libvirtd died between the last steps of a migration.

        libvirt cannot know then on which host the guest is to run, and leaves it paused on the source
        (qemuProcessRecoverMigrationOut() in its src/qemu/qemu_process.c).
        """
        for guest in self._guests:
            places = self._places(guest)
            begun = time.monotonic()
            while list(places.values()) != ["running"] and time.monotonic() < begun + LIBVIRT_S * PATIENCE:
                time.sleep(0.2)
                before, places = places, self._places(guest)
                if places != before:
                    begun = time.monotonic()
            paused = [node for node in self._nodes if places.get(node.host.name) == "paused"]
            if len(paused) != 1:
                continue  # judged by _wrong()
            self.figures.paused += 1
            paused[0].host.virsh("destroy" if "running" in places.values() else "resume", guest.name)

    def _places(self, guest: Guest) -> dict[str, str]:
        """The state of a guest on each host that has it."""
        found = {node.host.name: node.host.domains().get(guest.name) for node in self._nodes}
        return {name: state for name, state in found.items() if state is not None}


def _wrong_ports(node: Node, state: State, holders: Mapping[str, Guest]) -> list[str]:
    """What is wrong with the ports of a host, whose VFs the guests have."""
    wanted = {node.representor(index): holders.get(node.vf(index)) for index in range(VFS)}
    wrong = []
    for name, guest in wanted.items():
        port = state.switch_ports.get(name)
        if guest is None or port is None:
            if guest is not None:
                wrong.append(f"guest '{guest.name}' has no port {name}")
            continue
        told = (port.tag, port.ids.get("vm-id"), port.ids.get("attached-mac"))
        if told != (VLAN, guest.uuid, guest.vfs[0].mac):
            wrong.append(f"port {name} has {told}")
    orphans = set(state.switch_ports) - {name for name, guest in wanted.items() if guest is not None}
    return wrong + [f"orphan port {name}" for name in sorted(orphans)]


def run(seconds: float, seed: int) -> Tally:
    """Do rounds for so long, with hosts of their own; `seed` decides which service is killed when."""
    tally = Tally("services killed during migrations", FAULTS)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place, started_pair(images.host_root(), Path(place)) as pair:
        pair.reset()
        kills = Kills(pair, tally, random.Random(seed))
        try:
            kills.run(seconds)
        finally:
            tally.measured = kills.figures.as_json() | {"seed": seed}
        for node in (pair.a, pair.b):
            node.reset()
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
