# SPDX-License-Identifier: GPL-2.0-or-later
"""`host.links` with the real kernel, in a network namespace of the test."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.namespaces import Namespace, network
from vfmigrate.errors import HostError
from vfmigrate.host.links import Links

CLONE_NEWNET = 0x40000000


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network namespace with a veth pair, rep0 and vf0."""
    with network() as namespace:
        namespace.run("ip", "link", "add", "rep0", "type", "veth", "peer", "name", "vf0")
        yield namespace


@pytest.fixture
def links(namespace: Namespace) -> Iterator[Links]:
    # A socket stays in the namespace of the thread that made it, and a thread's namespace ends with it.
    with ThreadPoolExecutor(1) as inside:
        links = inside.submit(links_of, namespace.pid).result()
    yield links
    links.close()


def links_of(pid: int) -> Links:
    with Path(f"/proc/{pid}/ns/net").open() as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return Links()


def shown(namespace: Namespace, name: str) -> str:
    return namespace.run("ip", "-oneline", "link", "show", name).stdout


def test_all_devices_are_listed_as_each_is_shown_alone(links: Links, namespace: Namespace) -> None:
    namespace.run("ip", "link", "set", "rep0", "up", "mtu", "1400")
    every = links.all()
    assert {link.name for link in every.values()} == {"lo", "rep0", "vf0"}
    assert every == {index: links.link(index) for index in every}


def test_the_kind_of_a_virtual_device_is_seen(links: Links) -> None:
    link = links.find("rep0")
    assert link is not None
    # the peer of a veth is no device that it is on
    assert (link.kind, link.lower, link.vlan) == ("veth", None, None)
    loopback = links.find("lo")
    assert loopback is not None
    assert loopback.kind is None
    assert links.vlan_devices(link.index) == []


def test_received_frames_are_counted(links: Links, namespace: Namespace) -> None:
    for name in ("rep0", "vf0"):
        namespace.run("ip", "link", "set", name, "up")
    link = links.find("rep0")
    assert link is not None
    before = links.traffic(link.index)
    namespace.run("ip", "addr", "add", "10.9.9.1/24", "dev", "vf0")
    send = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('10.9.9.2', 9))"
    namespace.run(sys.executable, "-c", send)
    after = links.traffic(link.index)
    assert after.rx > before.rx  # the ARP request for that address
    with pytest.raises(HostError, match="look up interface 99999"):
        links.traffic(99999)


def test_a_link_is_found_by_name_and_by_index(links: Links, namespace: Namespace) -> None:
    namespace.run("ip", "link", "set", "rep0", "address", "52:54:00:00:00:01", "mtu", "1400")
    found = links.find("rep0")
    assert found is not None
    assert (found.name, found.up, found.mtu, found.address) == ("rep0", False, 1400, "52:54:00:00:00:01")
    assert links.link(found.index) == found


def test_a_link_found_by_index_has_its_current_name(links: Links, namespace: Namespace) -> None:
    found = links.find("rep0")
    assert found is not None
    namespace.run("ip", "link", "set", "rep0", "name", "renamed")
    assert links.link(found.index).name == "renamed"
    assert links.find("rep0") is None


@pytest.mark.parametrize("name", ["absent", "", "a-name-that-is-too-long-for-the-kernel"])
def test_no_link_is_found_for_an_unknown_name(links: Links, name: str) -> None:
    assert links.find(name) is None


def test_a_link_is_set_up_and_down(links: Links, namespace: Namespace) -> None:
    found = links.find("rep0")
    assert found is not None
    links.set_up(found.index)
    assert ",UP" in shown(namespace, "rep0")
    assert links.link(found.index).up
    links.set_up(found.index)
    links.set_up(found.index, False)
    assert ",UP" not in shown(namespace, "rep0")
    assert not links.link(found.index).up


def test_the_mtu_is_set(links: Links, namespace: Namespace) -> None:
    found = links.find("rep0")
    assert found is not None
    links.set_mtu(found.index, 9000)
    assert " mtu 9000 " in shown(namespace, "rep0")
    assert links.link(found.index).mtu == 9000


def test_the_error_about_a_refused_mtu_has_the_kernels_text(links: Links) -> None:
    found = links.find("rep0")
    assert found is not None
    with pytest.raises(
        HostError, match=rf"set the MTU of interface {found.index} to 70000: mtu greater than"
    ):
        links.set_mtu(found.index, 70000)


def test_a_link_that_was_deleted_is_an_error(links: Links, namespace: Namespace) -> None:
    found = links.find("rep0")
    assert found is not None
    namespace.run("ip", "link", "delete", "rep0")
    for attempt in (links.link, links.set_up):
        with pytest.raises(HostError, match=rf"interface {found.index}.*: No such device; it is gone"):
            attempt(found.index)


def test_addresses_and_routes_of_a_link_are_read(links: Links, namespace: Namespace) -> None:
    for name in ("rep0", "vf0"):
        namespace.run("ip", "link", "set", name, "up")
    link = links.find("rep0")
    assert link is not None
    assert (links.addresses().get(link.index, []), links.routes(link.index)) == (
        [],
        [],
    )  # but for the link-local ones
    namespace.run("ip", "addr", "add", "192.0.2.5/24", "dev", "rep0")
    namespace.run("ip", "addr", "add", "198.51.100.1", "peer", "198.51.100.2/32", "dev", "rep0")
    namespace.run("ip", "addr", "add", "2001:db8::5/64", "dev", "rep0", "nodad")
    namespace.run("ip", "addr", "add", "203.0.113.9/24", "dev", "vf0")
    assert links.addresses()[link.index] == ["192.0.2.5/24", "198.51.100.1/32", "2001:db8::5/64"]
    assert links.routes(link.index) == []
    namespace.run("ip", "route", "add", "default", "via", "192.0.2.1")
    namespace.run("ip", "route", "add", "10.1.0.0/16", "via", "203.0.113.1")
    multipath = ["nexthop", "via", "203.0.113.1", "nexthop", "via", "192.0.2.1"]
    namespace.run("ip", "route", "add", "10.2.0.0/16", *multipath)
    namespace.run("ip", "-6", "route", "add", "2001:db8:1::/48", "via", "2001:db8::1", "table", "77")
    assert sorted(links.routes(link.index)) == ["10.2.0.0/16", "2001:db8:1::/48", "default"]


def test_the_master_of_a_link_is_read(links: Links, namespace: Namespace) -> None:
    namespace.run("ip", "link", "add", "br9", "type", "bridge")
    before, bridge = links.find("rep0"), links.find("br9")
    assert before is not None
    assert bridge is not None
    assert (before.master, bridge.master) == (None, None)
    namespace.run("ip", "link", "set", "rep0", "master", "br9")
    found = links.find("rep0")
    assert found is not None
    assert found.master == links.link(before.index).master == bridge.index
