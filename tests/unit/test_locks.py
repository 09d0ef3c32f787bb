# SPDX-License-Identifier: GPL-2.0-or-later
"""Locks that know their order."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from vfmigrate import deadline, locks
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError
from vfmigrate.host.holders import holders
from vfmigrate.host.netlink import NETLINK_ROUTE, NetlinkSocket
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.host.sysfs_files import write_text
from vfmigrate.locks import LockOrderError, Rank, RankedLock
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openflow import OpenFlowConnection
from vfmigrate.ovs.ovsdb import Database

NOWHERE = Path("/nonexistent")
TREE = Path(__file__).resolve().parents[2]
VF = RankedLock(Rank.VF, "VF 0000:01:00.2")
OTHER_VF = RankedLock(Rank.VF, "VF 0000:01:00.3")
CLAIMS = RankedLock(Rank.CLAIMS, "the claims")


def test_locks_can_be_taken_in_order_and_again() -> None:
    with VF, CLAIMS, VF, CLAIMS:
        pass


@pytest.mark.parametrize("first", [CLAIMS, OTHER_VF])
def test_a_lock_out_of_order_is_an_error(first: RankedLock) -> None:
    with first, pytest.raises(LockOrderError, match=f"VF 0000:01:00.2 while it holds that of {first.name}"):
        VF.acquire()
    with VF:  # what was refused is not held
        pass


def test_each_thread_has_an_order_of_its_own() -> None:
    refused: list[LockOrderError] = []

    def take() -> None:
        try:
            with VF:
                pass
        except LockOrderError as error:
            refused.append(error)

    with CLAIMS:
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert refused == []


def test_nothing_slow_is_asked_under_the_lock_of_the_claims() -> None:
    with VF:  # a VF's lock is held across calls of the kernel
        locks.may_take_long("asks devlink")
    message = "asks devlink, which may take long, while it holds the lock of the claims"
    with CLAIMS, pytest.raises(LockOrderError, match=message):
        locks.may_take_long("asks devlink")
    locks.may_take_long("asks devlink")


def _ask_by_netlink() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        door = NetlinkSocket(NETLINK_ROUTE, sock=ours)
        try:
            door.ask(None, 0)
        finally:
            door.close()


DOORS: dict[str, Callable[[], object]] = {
    "walks through all processes": lambda: holders([]),
    "sends a netlink request": _ask_by_netlink,
    "writes to sysfs": lambda: write_text(NOWHERE, ""),
    "waits for the kernel to read configuration space": lambda: Sysfs(NOWHERE).msix_count(
        PciAddress(0, 1, 0, 0)
    ),
    "asks Open vSwitch's database": lambda: Database(f"unix:{NOWHERE}", timeout=1).transact(),
    "talks OpenFlow to a bridge": lambda: OpenFlowConnection(NOWHERE, 1),
}


@pytest.mark.parametrize("does", DOORS)
def test_a_door_that_may_take_long_is_closed_under_the_lock_of_the_claims(does: str) -> None:
    with CLAIMS, pytest.raises(LockOrderError, match=f"^{does}, which may take long"):
        DOORS[does]()


@pytest.fixture
def _unchecked() -> Iterator[None]:
    locks.check(False)
    yield
    locks.check(True)


@pytest.mark.usefixtures("_unchecked")
def test_the_order_is_not_checked_in_the_daemon() -> None:
    with CLAIMS, VF:
        locks.may_take_long("asks devlink")


@pytest.mark.parametrize("checked", [True, False])
def test_a_daemon_under_test_checks(checked: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != locks.CHECKED_BY}
    environment["PYTHONPATH"] = "lib"
    if checked:
        environment[locks.CHECKED_BY] = "1"
    misuse = """
from vfmigrate.locks import Rank, RankedLock
with RankedLock(Rank.CLAIMS, "the claims"), RankedLock(Rank.VF, "a VF"):
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", misuse], env=environment, cwd=TREE, capture_output=True, text=True, check=False
    )
    assert ("LockOrderError" in done.stderr) is checked
    assert (done.returncode != 0) is checked


def test_a_lock_that_is_held_for_long_is_waited_for_as_long_as_the_work_may_take() -> None:
    lock = RankedLock(Rank.VF, "VF 0000:01:00.4", Door("other work", "see the log", verb="did not end"))
    failed: list[str] = []

    def take() -> None:
        try:
            with deadline.within(0.02), lock:
                pass
        except HostError as error:
            failed.append(error.problem)

    with lock:
        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    (problem,) = failed
    # what was left of the 0.02 s when the lock was asked for
    assert problem.startswith("other work did not end within 0.0")
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    assert len(failed) == 1
