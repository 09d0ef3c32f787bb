# SPDX-License-Identifier: GPL-2.0-or-later
"""One service of a host hangs during one hook operation of a guest, while another guest starts and stops.

The operations are called as libvirt calls them, with the installed hook, real services and the running daemon. libvirt
itself does not know these guests: a libvirtd that is stopped calls no hook. The host has two cards; the other guest is
on the second one.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Callable

from tests.background import beside
from tests.integration.guests import Guest, Vf
from tests.integration.hosts import BRIDGE
from tests.integration.pair import Node, State
from tests.integration.product import CLAIMS, HOOK
from tests.patience import PATIENCE

#: the operations of the hook, in the order of a guest that arrives; `restore` takes the place of `migrate`
LIFE = ("migrate", "prepare", "start", "started", "stopped", "release")
OPERATIONS = ("migrate", "restore", "prepare", "start", "started", "reconnect", "stopped", "release")
#: those that libvirt stops when the hook fails
REFUSING = ("migrate", "restore", "prepare", "start")
JOURNAL = "/run/systemd/journal/socket"
VLAN = 42
SECOND_PF = "0000:02:00.0"
OTHER_POOL = f"""
[pool other]
pf = {SECOND_PF}
bridge = {BRIDGE}
vlans = 42-43
"""
#: seconds: what a hook takes that waits for nothing, the hook's own patience, and what it waits where its answer
#: changes nothing
QUICK_S, LONGEST_S, HANDED_OVER_S = 3.0, 60.0, 4.0
SETTLE_S = 30.0


@dataclass(frozen=True)
class Answer:
    """A call of the hook: how long it took in seconds, its exit status and what it said."""

    operation: str
    seconds: float
    status: int
    xml: str
    error: str


def call(node: Node, operation: str, name: str, xml: str) -> Answer:
    """Call the hook for a guest."""
    sub_operation = "end" if operation in ("stopped", "release") else "begin"
    begun = time.monotonic()
    done = node.host.run(HOOK, name, operation, sub_operation, "-", stdin=xml, check=False, timeout=120)
    return Answer(operation, time.monotonic() - begun, done.returncode, done.stdout, done.stderr.strip())


# -- what hangs


@contextmanager
def full_journal(node: Node) -> Iterator[None]:
    """Journald does not read, and its socket's queue is full."""
    path = node.host.path(JOURNAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            filler.connect(str(path))
            with suppress(BlockingIOError):
                while True:
                    filler.send(b"MESSAGE=full\n")
        try:
            yield
        finally:
            path.unlink()


@contextmanager
def full_disk(node: Node) -> Iterator[None]:
    """No byte is free in the file system of the claims."""
    filler = node.host.path(f"{CLAIMS}/filler")
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only_disk(node: Node) -> Iterator[None]:
    """The file system of the claims cannot be written."""
    node.host.run("mount", "--bind", CLAIMS, CLAIMS)
    node.host.run("mount", "-o", "remount,bind,ro", CLAIMS)
    try:
        yield
    finally:
        node.host.run("umount", CLAIMS)


@contextmanager
def silent_devlink(node: Node) -> Iterator[None]:
    """The kernel does not answer about the first card."""
    node.card.delay(node.pf, 3600.0)
    try:
        yield
    finally:
        node.card.delay(node.pf, 0.0)


def _stopped(pid_file: str) -> Callable[[Node], AbstractContextManager[None]]:
    return lambda node: node.host.halted(pid_file)


@dataclass(frozen=True)
class Service:
    """Something that hangs."""

    hang: Callable[[Node], AbstractContextManager[None]]
    #: what a refusal names; empty: no hook needs it, so none is refused or waits
    named: str = ""
    #: seconds that an operation, and one of the other guest on the other card, may take
    own_s: float = QUICK_S
    other_s: float = QUICK_S


#: of the one libvirtd, and of the modular daemons
MONOLITHIC_SERVICES = {
    "journald": Service(full_journal),
    "libvirtd": Service(_stopped("/run/libvirtd.pid")),
    "ovsdb-server": Service(
        _stopped("/run/openvswitch/ovsdb-server.pid"), "ovsdb-server", LONGEST_S, LONGEST_S
    ),
    "ovs-vswitchd": Service(
        _stopped("/run/openvswitch/ovs-vswitchd.pid"), "ovs-vswitchd", LONGEST_S, LONGEST_S
    ),
    "devlink of one card": Service(silent_devlink, "the kernel", LONGEST_S),
    "read-only disk": Service(read_only_disk, "Read-only file system"),
    "full disk": Service(full_disk, "No space left on device"),
}
MODULAR_SERVICES = {
    "virtnetworkd": Service(_stopped("/run/virtnetworkd.pid")),
    "virtqemud": Service(_stopped("/run/virtqemud.pid")),
}


# -- one cell


@dataclass
class Cell:
    """What was seen of one service and one operation."""

    service: str
    operation: str
    #: seconds of the operation, and of the slowest one of the other guest
    own_s: float = 0.0
    other_s: float = 0.0
    others: int = 0
    #: done, refused or handed over
    outcome: str = ""
    wrong: list[str] = field(default_factory=list)


def start_product(node: Node) -> None:
    """Run vfmigrate with a pool on each card, and claims on a file system of their own."""
    node.host.path(CLAIMS).mkdir(parents=True)
    node.host.run("mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", CLAIMS)
    node.product.launch(more=OTHER_POOL)
    node.product.wait_until_answering()
    node.wait_until_ready()


def stop_product(node: Node) -> None:
    """Undo `start_product`."""
    node.product.stop()
    node.host.run("umount", CLAIMS)


class Matrix:
    """The cells on one host."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._arriving = Guest("arriving", [Vf("0000:c1:00.7", "52:54:00:00:00:71", vlan=VLAN)], number=71)
        self._other = Guest(
            "other", [Vf(node.card.vf(0, SECOND_PF), "52:54:00:00:00:72", "other", VLAN)], number=72
        )
        self._before = self._state()

    def _state(self) -> State:
        return self._node.state()

    def cell(self, name: str, service: Service, operation: str) -> Cell:
        """One service hangs during one operation."""
        cell = Cell(name, operation)
        life = [operation if each == "migrate" and operation == "restore" else each for each in LIFE]
        before = life[: life.index(operation)] if operation != "reconnect" else life[:4]
        after = life[len(before) + (operation in life) :]
        xml = self._arriving.xml()
        for each in before:
            xml = self._expect(cell, "before", each, xml)
        with service.hang(self._node), self._another(cell):
            answer = call(self._node, operation, self._arriving.name, xml)
        cell.own_s = round(answer.seconds, 2)
        self._judge(cell, service, answer)
        if answer.status == 0:
            xml = answer.xml or xml
            for each in after:
                xml = self._expect(cell, "after", each, xml)
        else:
            call(self._node, "release", self._arriving.name, xml)
        self._expect_nothing_left(cell)
        return cell

    def _expect(self, cell: Cell, when: str, operation: str, xml: str) -> str:
        """An operation while nothing hangs, which must succeed; the guest's XML after it."""
        answer = call(self._node, operation, self._arriving.name, xml)
        if answer.status != 0:
            cell.wrong.append(f"{operation} {when} it was refused: {answer.error}")
        return answer.xml or xml

    def _judge(self, cell: Cell, service: Service, answer: Answer) -> None:
        may_refuse = cell.operation in REFUSING and service.named
        most = service.own_s if cell.operation in REFUSING else min(service.own_s, HANDED_OVER_S)
        if answer.seconds > most * PATIENCE:
            cell.wrong.append(f"it took {answer.seconds:.1f} s")
        if answer.status == 0:
            cell.outcome = (
                "handed over" if answer.seconds > 1.0 and cell.operation not in REFUSING else "done"
            )
        else:
            cell.outcome = "refused"
            if not may_refuse:
                cell.wrong.append(f"it was refused: {answer.error}")
            elif not re.search(service.named, answer.error) or not answer.error.startswith("vfmigrate: "):
                cell.wrong.append(f"the refusal does not name {service.named}: {answer.error}")
        if cell.other_s > service.other_s * PATIENCE:
            cell.wrong.append(f"another guest's hook took {cell.other_s:.1f} s")

    @contextmanager
    def _another(self, cell: Cell) -> Iterator[None]:
        """Meanwhile the other guest starts and stops, at least once."""
        answers: list[Answer] = []

        def live(ended: threading.Event) -> None:
            while not ended.is_set() or not answers:
                answers.extend(
                    call(self._node, operation, self._other.name, self._other.xml()) for operation in LIFE[1:]
                )

        try:
            with beside(live):
                yield
        finally:
            cell.others = len(answers)
            cell.other_s = round(max(answer.seconds for answer in answers), 2)
            refused = {answer.error for answer in answers if answer.status != 0}
            # where what hangs is everybody's, the other guest is refused as well, and in words
            cell.wrong += [
                f"another guest: {error}" for error in refused if not error.startswith("vfmigrate: ")
            ]

    def _expect_nothing_left(self, cell: Cell) -> None:
        """The host is as before, after one reconcile at the latest."""
        end = time.monotonic() + SETTLE_S * PATIENCE
        asked = False
        while self._state() != self._before:
            if time.monotonic() > end:
                cell.wrong.append(f"the host is not as before: {different(self._before, self._state())}")
                return
            if not asked:
                asked = True
                call(self._node, "release", self._other.name, self._other.xml())
                self._node.host.run("vfmigrate", "reconcile", check=False)
            time.sleep(0.1)


def different(before: State, now: State) -> str:
    """What of a host is not as it was, in words."""
    return "; ".join(
        f"{name} {getattr(now, name)} instead of {getattr(before, name)}"
        for name in vars(before)
        if getattr(now, name) != getattr(before, name)
    )
