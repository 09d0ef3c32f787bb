# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that travel through libvirt: their form, client and server."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, cast

import pytest

from tests.fakes.network_metadata import MemoryNetworkMetadata
from vfmigrate.errors import Denied, HostError, InputError, Refused, Unreachable, UsageError
from vfmigrate.journal import Journal
from vfmigrate.rpc import network_message, protocol
from vfmigrate.rpc.message_table import MAX_ANSWERS_BYTES, MAX_REQUESTS, MAX_REQUESTS_BYTES
from vfmigrate.rpc.protocol import Request
from vfmigrate.rpc.remote_client import RemoteClient
from vfmigrate.rpc.remote_server import RemoteServer

if TYPE_CHECKING:
    from vfmigrate.virt.network_metadata import NetworkMetadata  # imports libvirt-python, which is not here

NETWORK = "vfmigrate-data"
ID = "11111111-2222-4333-8444-555555555555"
REQUEST, ANSWER = network_message.REQUEST + ID, network_message.ANSWER + ID


class Host:
    """A host that answers requests; its clock is set by the test."""

    def __init__(self, log: Journal) -> None:
        self.box = MemoryNetworkMetadata(NETWORK)
        self.now = 1000.0
        self.asked: list[Request] = []
        self.networks: list[str] = []
        self.padding = ""
        #: networks whose pool is not configured any more
        self.stale: set[str] = set()
        self.server = RemoteServer(
            cast("NetworkMetadata", self.box), self.answer, log, clock=lambda: self.now
        )

    def answer(self, network: str, request: Request) -> dict[str, Any]:
        self.asked.append(request)
        self.networks.append(network)
        if network in self.stale:
            raise Denied(f"'{network}' belongs to no pool")
        if request.name == "counters":
            return {"ports": [network]}
        if request.name == "claim":
            raise Refused("pool 'data' has no free VF", "add one")
        return {"got": dict(request.arguments), "padding": self.padding}

    def open(self) -> None:
        self.box.on_change = self.server.enqueue
        self.server.start()

    def remote(self) -> RemoteClient:
        return RemoteClient(cast("NetworkMetadata", self.box), "host-b")


@pytest.fixture
def host() -> Iterator[Host]:
    log = Journal(Path("/nonexistent"))
    host = Host(log)
    yield host
    host.server.stop()
    log.close()


def request_element(name: str = "facts", **arguments: Any) -> str:
    return network_message.wrap(protocol.encode_request(name, arguments), network_message.MAX_REQUEST_BYTES)


def present(host: Host) -> list[str]:
    return host.box.uris(NETWORK)


# -- the form


@pytest.mark.parametrize("text", ['{"a": "<&>\'\\" ä\\u0000"}', "x"])
def test_a_wrapped_line_is_unwrapped_again(text: str) -> None:
    line = text.encode() + b"\n"
    assert network_message.unwrap(network_message.wrap(line, 100), 100) == line


def test_wrap_refuses_a_long_line() -> None:
    with pytest.raises(InputError, match="too long"):
        network_message.wrap(b"x" * 101, 100)


@pytest.mark.parametrize(
    "element",
    [
        "<message>" + "x" * 101 + "</message>",
        "<message>" + "x" * 1000 + "</message>",
        "<message><b/>x</message>",
        "<message/>",
        "nonsense",
        '<!DOCTYPE l [<!ENTITY a "b">]><message>&a;</message>',
    ],
)
def test_malformed_messages_are_refused(element: str) -> None:
    with pytest.raises(InputError):
        network_message.unwrap(element, 100)


def test_the_id_is_read_from_the_namespace() -> None:
    assert network_message.request_id(REQUEST) == ID
    assert network_message.is_ours(ANSWER)
    assert network_message.is_ours(ANSWER + "-malformed")
    assert not network_message.is_ours("urn:vfmigrate:network:1")
    for other in (ANSWER, "urn:vfmigrate:ask:", REQUEST + "0", REQUEST.upper(), "urn:vfmigrate:network:1"):
        assert network_message.request_id(other) is None


def test_messages_are_found_among_other_metadata() -> None:
    xml = f"""<network><name>n</name><metadata>
      <p:pool xmlns:p='urn:vfmigrate:network:1' name='data'/><a xmlns='{REQUEST}'/><b xmlns='{ANSWER}'/><c/>
    </metadata></network>"""
    assert list(network_message.uris(xml)) == [REQUEST, ANSWER]
    assert list(network_message.uris("<network/>")) == []


# -- asking and answering


def test_a_request_is_answered_and_nothing_is_left(host: Host) -> None:
    host.open()
    assert host.remote().ask("facts", {"a": "ä<"}) == {"got": {"a": "ä<"}, "padding": ""}
    assert present(host) == []


def test_the_error_of_the_other_host_is_raised(host: Host) -> None:
    host.open()
    with pytest.raises(Refused, match="no free VF") as caught:
        host.remote().ask("claim", {})
    assert caught.value.remedy == "add one"
    assert present(host) == []


def test_requests_beyond_those_for_other_hosts_are_denied(host: Host) -> None:
    host.open()
    for name in ("hook", "reconcile", "provision", "departure"):
        with pytest.raises(Denied):
            host.remote().ask(name, {})
    with pytest.raises(UsageError):
        host.remote().ask("nonsense", {})
    assert host.asked == []


def test_a_daemon_that_does_not_answer_is_an_error(host: Host) -> None:
    with pytest.raises(Unreachable, match="host-b: vfmigrated does not answer"):
        host.remote().ask("facts", {}, timeout=0.2)
    assert present(host) == []


def test_a_host_without_a_running_network_is_an_error(host: Host) -> None:
    host.box.stop(NETWORK)
    with pytest.raises(Unreachable, match="host-b: libvirt runs no network") as caught:
        host.remote().ask("facts", {}, timeout=0.2)
    assert caught.value.remedy == "run on host-b: vfmigrate provision"


@pytest.mark.parametrize("how", ["restart", "removal"])
def test_a_lost_request_is_sent_again(host: Host, how: str) -> None:
    lost: list[str] = []

    def lose(network: str, uri: str) -> None:
        if network_message.request_id(uri) is not None and not lost:
            lost.append(uri)
            host.box.restart(network) if how == "restart" else host.server.remove_stale()
            host.open()

    host.box.on_change = lose
    assert host.remote().ask("facts", {}) == {"got": {}, "padding": ""}
    assert len(host.asked) == 1


@pytest.mark.parametrize("said", ["nonsense", "[" * 60_000, "null", "[]", '{"result": 1}'])
def test_a_malformed_answer_is_an_error(host: Host, said: str) -> None:
    def spoil(network: str, uri: str) -> None:
        identity = network_message.request_id(uri)
        if identity is not None and host.box.read(network, uri) is not None:
            host.box.on_change = lambda *_: None
            host.box.write(network, network_message.ANSWER + identity, f"<message>{said}</message>")

    host.box.on_change = spoil
    with pytest.raises(Unreachable, match="the program that answers at host-b is not vfmigrated"):
        host.remote().ask("facts", {}, timeout=5)


def test_a_refusal_of_libvirt_is_an_error(host: Host) -> None:
    host.box.read_only = True
    with pytest.raises(HostError, match="read only"):
        host.remote().ask("facts", {})


# -- the answering end alone


@pytest.mark.parametrize("element", ["<message>nonsense</message>", "<message><x/></message>", "<message/>"])
def test_a_malformed_request_gets_an_error(host: Host, element: str) -> None:
    host.box.write(NETWORK, REQUEST, element)
    host.server.process(NETWORK, ID)
    answer = host.box.read(NETWORK, ANSWER)
    assert answer is not None
    assert b'"kind": "input"' in network_message.unwrap(answer, network_message.MAX_ANSWER_BYTES)


def test_an_answer_that_is_too_long_is_an_error(host: Host) -> None:
    host.box.write(NETWORK, REQUEST, request_element())
    host.padding = "x" * network_message.MAX_ANSWER_BYTES
    host.server.process(NETWORK, ID)
    answer = host.box.read(NETWORK, ANSWER)
    assert answer is not None
    assert "too long" in answer


def test_a_removed_request_is_not_answered(host: Host) -> None:
    host.server.process(NETWORK, ID)
    assert (host.asked, present(host)) == ([], [])


def test_an_answer_is_removed_when_it_is_stale(host: Host) -> None:
    host.box.write(NETWORK, REQUEST, request_element())
    host.server.process(NETWORK, ID)
    host.server.remove_stale()
    host.server.look()
    assert present(host) == [ANSWER]  # its client may be about to fetch it; the request has been removed
    host.now += 16
    host.server.look()
    assert present(host) == []


def test_messages_of_earlier_daemons_are_removed_at_once(host: Host) -> None:
    host.box.write(NETWORK, REQUEST, request_element())
    host.box.write(NETWORK, ANSWER, request_element())
    host.box.write(NETWORK, "urn:vfmigrate:network:1", "<pool/>")
    host.server.remove_stale()
    assert list(host.box.elements[NETWORK]) == ["urn:vfmigrate:network:1"]


def test_the_number_of_requests_is_limited(host: Host) -> None:
    for _ in range(200):
        uri = network_message.REQUEST + str(uuid.uuid4())
        host.box.write(NETWORK, uri, request_element())
        host.server.enqueue(NETWORK, uri)
    host.server.look()
    assert len(present(host)) == MAX_REQUESTS
    host.server.start()
    wait_until(lambda: all(uri.startswith(network_message.ANSWER) for uri in present(host)))
    assert len(host.asked) == MAX_REQUESTS
    host.now += 16
    host.server.look()
    assert present(host) == []


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_the_bytes_of_requests_are_limited(host: Host) -> None:
    """Four hundred requests of 15 kB, as fast as they can be written: what stays is little, and goes in its time."""
    host.box.on_change = host.server.enqueue
    for _ in range(400):
        host.box.write(NETWORK, network_message.REQUEST + str(uuid.uuid4()), f"<m>{'x' * 15_000}</m>")
    host.server.look()
    assert sum(len(host.box.read(NETWORK, uri) or "") for uri in present(host)) <= MAX_REQUESTS_BYTES
    host.now += 61
    host.server.look()
    assert present(host) == []


@pytest.mark.parametrize(
    ("uri", "size"),
    [
        (REQUEST, 100_000),
        (network_message.REQUEST + "malformed", 10),
        (ANSWER, 10),  # not written by the daemon
        (network_message.ANSWER, 10),
    ],
)
def test_metadata_that_no_client_writes_is_removed_when_libvirt_reports_it(
    host: Host, uri: str, size: int
) -> None:
    host.box.on_change = host.server.enqueue
    host.box.write(NETWORK, uri, "x" * size)
    host.server.look()
    assert (host.box.read(NETWORK, uri), host.asked) == (None, [])


def test_an_answer_that_somebody_replaces_by_a_larger_one_is_removed(host: Host) -> None:
    host.box.on_change = host.server.enqueue
    host.box.write(NETWORK, REQUEST, request_element())
    host.server.look()
    host.server.process(NETWORK, ID)
    host.server.look()
    assert present(host) == [ANSWER]
    host.box.write(NETWORK, ANSWER, "x" * 4_000_000)
    host.server.look()
    assert present(host) == []


def test_a_request_that_grows_is_removed(host: Host) -> None:
    host.box.on_change = host.server.enqueue
    host.box.write(NETWORK, REQUEST, request_element())
    host.server.look()
    host.box.write(NETWORK, REQUEST, "x" * 4_000_000)
    host.server.look()
    assert present(host) == []


def test_the_bytes_of_answers_are_limited(host: Host) -> None:
    host.padding = "x" * (network_message.MAX_ANSWER_BYTES - 1000)
    for number in range(5):
        identity = f"{number}{ID[1:]}"
        host.box.write(NETWORK, network_message.REQUEST + identity, request_element())
        host.server.process(NETWORK, identity)
    assert sum(len(host.box.read(NETWORK, uri) or "") for uri in present(host)) <= MAX_ANSWERS_BYTES
    last = host.box.read(NETWORK, f"{network_message.ANSWER}4{ID[1:]}")
    assert last is not None
    assert "too many answers of vfmigrated wait" in last


def test_requests_that_nobody_can_list_any_more_are_removed_by_their_events(host: Host) -> None:
    host.box.too_large = True
    host.box.on_change = host.server.enqueue
    host.box.write(NETWORK, network_message.REQUEST + "malformed", "x")
    host.server.remove_stale()  # a failure of libvirt's, which is logged
    host.server.look()
    host.box.too_large = False
    assert present(host) == []


def test_a_sweep_is_done_in_the_thread_of_the_server(host: Host) -> None:
    host.box.write(NETWORK, REQUEST, request_element())
    host.server.sweep_soon()
    assert present(host) == [REQUEST]  # whoever asks for it does not wait
    host.server.start()
    wait_until(lambda: present(host) == [])
    assert host.asked == []


def test_the_namespaces_in_what_libvirt_saved() -> None:
    piece = 1048576
    other = REQUEST.replace("1", "9")
    text = f"<a xmlns='{REQUEST}'/>{'x' * (piece - 60)}<b xmlns=\"{other}\"/><c xmlns='urn:vfmigrate:network:1'/>"
    assert network_message.uris_in_file(io.StringIO(text)) == [REQUEST, other]


# -- several pools


def test_a_request_about_a_pool_goes_through_its_network(host: Host) -> None:
    host.box.elements["vfmigrate-other"] = {}
    host.open()
    host.remote().ask("give_back", {"domain": "d", "pool": "other"})
    assert host.networks == ["vfmigrate-other"]
    with pytest.raises(Unreachable, match="libvirt runs no network of pool 'absent'"):
        host.remote().ask("give_back", {"domain": "d", "pool": "absent"})


def test_a_request_about_no_pool_goes_to_all_and_their_answers_are_joined(host: Host) -> None:
    host.box.elements["vfmigrate-other"] = {}
    host.open()
    assert host.remote().ask("counters", {})["ports"] == [NETWORK, "vfmigrate-other"]
    assert host.remote().ask("ping", {})["got"] == {}
    assert len(host.networks) == 3


def test_networks_that_the_user_may_not_write_are_left_out(host: Host) -> None:
    host.box.elements["vfmigrate-other"] = {}
    host.box.locked.add(NETWORK)
    host.open()
    assert host.remote().ask("counters", {})["ports"] == ["vfmigrate-other"]
    host.box.locked.add("vfmigrate-other")
    with pytest.raises(HostError, match="read only"):
        host.remote().ask("counters", {})


def test_networks_of_pools_that_are_gone_are_left_out(host: Host) -> None:
    host.box.elements["vfmigrate-other"] = {}
    host.stale.add(NETWORK)
    host.open()
    assert host.remote().ask("counters", {})["ports"] == ["vfmigrate-other"]
    host.stale.add("vfmigrate-other")
    with pytest.raises(Denied, match="belongs to no pool"):
        host.remote().ask("counters", {})
