# SPDX-License-Identifier: GPL-2.0-or-later
"""Unplugging a device: the guest is asked, waited for, and asked again when it did not listen."""

from __future__ import annotations

import ast
import threading
from pathlib import Path
from typing import Optional

import pytest

from vfmigrate.errors import HostError
from vfmigrate.virt import unplug as module
from vfmigrate.virt.unplug import unplug

VIRT = Path(module.__file__).parent


class Guest:
    """A guest that releases its device at the request of a number; never where that is 0."""

    def __init__(self, *, releases_at: int, refuses: tuple[int, ...] = ()) -> None:
        self.releases_at = releases_at
        self.refuses = refuses
        self.requests: list[str] = []

    def find(self) -> Optional[str]:
        gone = self.releases_at and len(self.requests) >= self.releases_at
        return None if gone else "<hostdev/>"

    def detach(self, device: str) -> None:
        self.requests.append(device)
        if len(self.requests) in self.refuses:
            raise HostError("already in the process of unplug")


def no_pause(_seconds: float) -> None:
    pass


def test_no_request_is_sent_for_an_absent_device() -> None:
    guest = Guest(releases_at=0)
    assert unplug(lambda: None, guest.detach, 5.0)
    assert guest.requests == []


def test_unplug_returns_when_the_guest_released_the_device() -> None:
    guest = Guest(releases_at=1)
    assert unplug(guest.find, guest.detach, 5.0, pause=no_pause)
    assert guest.requests == ["<hostdev/>"]


def test_a_repeated_request_may_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN_SECONDS", 0.001)
    guest = Guest(releases_at=3, refuses=(2,))
    assert unplug(guest.find, guest.detach, 5.0)
    assert len(guest.requests) == 3


def test_a_first_request_that_is_refused_is_an_error() -> None:
    guest = Guest(releases_at=0, refuses=(1,))
    with pytest.raises(HostError, match="already in the process"):
        unplug(guest.find, guest.detach, 5.0)


def test_unplug_reports_a_guest_that_keeps_the_device() -> None:
    assert not unplug(Guest(releases_at=0).find, no_detach, 0.05)


def no_detach(_device: str) -> None:
    pass


def test_a_cancelled_unplug_does_not_wait() -> None:
    cancelled = threading.Event()

    def detach(_device: str) -> None:
        cancelled.set()

    assert not unplug(Guest(releases_at=0).find, detach, 60.0, pause=cancelled.wait)


def test_no_other_module_asks_a_guest_to_release_a_device_and_waits() -> None:
    callers = set()
    for file in VIRT.glob("*.py"):
        tree = ast.parse(file.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        calls = {
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        if "detachDeviceFlags" in names:
            callers.add(file.name)
            assert "unplug" in calls, f"{file.name} detaches a device without unplug()"
    assert callers
