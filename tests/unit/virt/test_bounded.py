# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's objects with a limit on every call: with objects of the same names, since there is no libvirt here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vfmigrate import deadline, uninterruptible
from vfmigrate.errors import Unreachable
from vfmigrate.polling import until
from vfmigrate.virt.bounded import DOMAINS, NETWORKS, Bounded, together


class virDomain:  # noqa: N801 - libvirt-python's name
    """A domain; `XMLDesc` may hang, as while libvirt holds its lock."""

    def __init__(self, hangs: threading.Event) -> None:
        self._hangs = hangs

    def UUIDString(self) -> str:  # noqa: N802
        return threading.current_thread().name

    def XMLDesc(self, flags: int) -> str:  # noqa: N802
        self._hangs.wait()
        return f"<domain/> {flags} {threading.current_thread().name}"


class virNetwork:  # noqa: N801 - libvirt-python's name
    """A network."""

    def isActive(self) -> int:  # noqa: N802
        return 1


class virConnect:  # noqa: N801 - libvirt-python's name
    """A connection, of which calls about networks may hang."""

    def __init__(self, hangs: threading.Event) -> None:
        self._hangs = hangs

    def listAllDomains(self, _flags: int) -> list[virDomain]:  # noqa: N802
        return [virDomain(self._hangs)]

    def networkLookupByName(self, _name: str) -> virNetwork:  # noqa: N802
        self._hangs.wait()
        return virNetwork()


@pytest.fixture
def hangs() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()
    assert until(lambda: uninterruptible.hung() == {}, 20.0, 0.01)


def test_calls_are_passed_on_and_what_they_return_is_bounded(hangs: threading.Event) -> None:
    hangs.set()
    (domain,) = Bounded(virConnect(hangs)).listAllDomains(1)
    assert isinstance(domain, Bounded)
    assert domain.XMLDesc(8) == "<domain/> 8 call"
    assert Bounded(virConnect(hangs)).networkLookupByName("data").isActive() == 1


def test_a_call_that_asks_nobody_is_made_here(hangs: threading.Event) -> None:
    assert Bounded(virDomain(hangs)).UUIDString() == threading.current_thread().name


def test_a_call_that_hangs_is_given_up(hangs: threading.Event) -> None:
    (domain,) = Bounded(virConnect(hangs)).listAllDomains(1)
    begun = time.monotonic()
    expected = pytest.raises(Unreachable, match=r"libvirt did not answer within .* s: XMLDesc; see systemctl")
    with deadline.within(0.05), expected:
        domain.XMLDesc(0)
    assert time.monotonic() - begun < 10.0
    assert uninterruptible.hung() == {DOMAINS.name: 1}


def test_networks_are_a_door_of_their_own(hangs: threading.Event) -> None:
    """With modular daemons another one answers: while it hangs, domains can be asked for."""
    connection = Bounded(virConnect(hangs))
    with deadline.within(0.05), pytest.raises(Unreachable, match=r"libvirt \(networks\) did not answer"):
        connection.networkLookupByName("data")
    assert uninterruptible.hung() == {NETWORKS.name: 1}
    assert len(connection.listAllDomains(1)) == 1


def test_calls_that_belong_together_have_one_limit(hangs: threading.Event) -> None:
    connection = virConnect(hangs)
    assert together(connection, lambda each: each is connection)
    assert together(Bounded(connection), lambda each: each is connection)
    expected = pytest.raises(Unreachable, match=r"libvirt \(networks\) did not answer within .*: metadata")
    with deadline.within(0.05), expected:
        together(Bounded(connection), lambda each: each.networkLookupByName("data"))
