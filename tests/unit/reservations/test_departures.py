# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests whose VFs the engine unplugged for a migration that then failed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.rig import Rig
from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.errors import Unreachable
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.departures import Departures

DOMAIN = "00000000-0000-4000-8000-000000000001"
CLAIM = Claim(PciAddress(0, 1, 0, 2), "data", DOMAIN, "web", PLUGGED, 0.0, mac="56:6f:1a:2b:00:02")


class DeparturesRig(Rig):
    """The rig with departures, and a libvirt and a journal of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.receiver.bind(str(directory / "journal"))
        self.receiver.setblocking(False)
        super().__init__(directory, journal="journal")
        self.busy = False
        self.down = False
        self.departures = Departures(self.store, self.log, self._migrating)

    def close(self) -> None:
        super().close()
        self.receiver.close()

    def _migrating(self, domain: str) -> bool:
        assert domain == DOMAIN
        if self.down:
            raise Unreachable("no connection to libvirt")
        return self.busy

    def looks(self, after: float = 0.0, *, running: bool = True) -> list[str]:
        """What is said at a look so many seconds later."""
        self.now += after
        self.departures.look({DOMAIN} if running else set())
        said = []
        while True:
            try:
                said.append(self.receiver.recv(65536).decode())
            except BlockingIOError:
                return said


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[DeparturesRig]:
    with DeparturesRig(tmp_path) as rig:
        yield rig


def test_a_guest_that_stayed_without_its_vf_is_reported_once(rig: DeparturesRig) -> None:
    rig.departures.unplugged(CLAIM)
    rig.departures.leaving(DOMAIN)
    assert rig.looks(30) == []
    (told,) = rig.looks(100)
    assert "VFMIGRATE_EVENT=vf-not-plugged-back\n" in told
    assert "guest 'web' did not migrate and runs here without its VF with MAC 56:6f:1a:2b:00:02" in told
    assert rig.looks(100) == []


def test_a_vf_that_was_unplugged_without_a_migration_is_not_reported(rig: DeparturesRig) -> None:
    rig.departures.unplugged(CLAIM)
    assert rig.looks(1000) == []


def test_a_guest_that_left_is_not_reported(rig: DeparturesRig) -> None:
    rig.departures.unplugged(CLAIM)
    rig.departures.leaving(DOMAIN)
    assert rig.looks(100, running=False) == []
    assert rig.looks(100) == []


def test_a_guest_that_has_its_vf_back_is_not_reported(rig: DeparturesRig) -> None:
    rig.departures.unplugged(CLAIM)
    rig.departures.leaving(DOMAIN)
    rig.store.put(CLAIM)
    assert rig.looks(100) == []
    rig.store.drop(CLAIM)
    assert rig.looks(100) == []


def test_a_guest_is_not_reported_while_it_migrates(rig: DeparturesRig) -> None:
    rig.departures.unplugged(CLAIM)
    rig.departures.leaving(DOMAIN)
    rig.busy = True
    assert rig.looks(1000) == []
    rig.departures.leaving(DOMAIN)
    rig.busy = False
    assert rig.looks(30) == []
    assert len(rig.looks(100)) == 1


def test_nothing_is_reported_while_libvirt_does_not_answer(rig: DeparturesRig) -> None:
    rig.departures.unplugged(CLAIM)
    rig.departures.leaving(DOMAIN)
    rig.down = True
    assert rig.looks(100) == []
    rig.down = False
    assert len(rig.looks(1)) == 1
