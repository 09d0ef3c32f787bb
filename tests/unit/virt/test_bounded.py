# SPDX-License-Identifier: GPL-2.0-or-later
"""libvirt's objects with a limit on every call: with objects of the same names, since there is no libvirt here."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vfmigrate import deadline, uninterruptible
from vfmigrate.deadline import Door
from vfmigrate.errors import Unreachable
from vfmigrate.polling import until
from vfmigrate.virt.bounded import DOMAINS, NETWORKS, Bounded, Limits, together


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

    def domainListGetStats(self, domains: list[virDomain]) -> list[str]:  # noqa: N802
        return [type(domain).__name__ for domain in domains]

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


def test_a_bounded_argument_reaches_libvirt_as_its_own_object(hangs: threading.Event) -> None:
    hangs.set()
    connection = Bounded(virConnect(hangs))
    assert connection.domainListGetStats(connection.listAllDomains(0)) == ["virDomain"]


def test_a_client_names_the_host_that_does_not_answer(hangs: threading.Event) -> None:
    door = Door("libvirt at qemu+tcp://host-b/system", "see its journal", Unreachable)
    (domain,) = Bounded(virConnect(hangs), Limits(door, door, 0.05, 0.05)).listAllDomains(0)
    with pytest.raises(Unreachable, match=r"libvirt at qemu\+tcp://host-b/system did not answer .*; see its"):
        domain.XMLDesc(0)


def test_calls_that_belong_together_have_one_limit(hangs: threading.Event) -> None:
    connection = virConnect(hangs)
    assert together(connection, lambda each: each is connection)
    assert together(Bounded(connection), lambda each: each is connection)
    expected = pytest.raises(Unreachable, match=r"libvirt \(networks\) did not answer within .*: metadata")
    with deadline.within(0.05), expected:
        together(Bounded(connection), lambda each: each.networkLookupByName("data"))
