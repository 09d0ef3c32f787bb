# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to the other host's vfmigrated through libvirt: real libvirt, network metadata and events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Pair

pytestmark = pytest.mark.hosts

NETWORK = "vfmigrate-data"
MAC = "52:54:00:00:00:07"
UUID = "11111111-1111-4111-8111-000000000007"

#: sends a request as the command does; prints the result or the error as JSON
ASK = """
import json, sys
from vfmigrate.errors import VfmigrateError
from vfmigrate.rpc.remote_client import RemoteClient
from vfmigrate.virt.connection import LibvirtConnection
uri, name, arguments, timeout = sys.argv[1:]
with LibvirtConnection(uri) as session:
    try:
        answer = RemoteClient(session.network_metadata(), uri).ask(name, json.loads(arguments), timeout=float(timeout))
        print(json.dumps({"result": answer}))
    except VfmigrateError as error:
        print(json.dumps({"kind": error.kind, "problem": error.problem, "remedy": error.remedy}))
"""


def ask(source: Node, target: Node, name: str, timeout: float = 20.0, **arguments: Any) -> dict[str, Any]:
    uri = f"qemu+tcp://{target.host.name}/system"
    words = ("env", "PYTHONPATH=/usr/share/vfmigrate", "python3", "-c", ASK, uri, name, json.dumps(arguments))
    told = json.loads(source.host.run(*words, str(timeout)).stdout)
    assert isinstance(told, dict)
    return told


@pytest.fixture
def answering(ready: Pair) -> Pair:
    """Host B has its pool's network."""
    ready.b.host.run("vfmigrate", "provision")
    return ready


def metadata(node: Node) -> str:
    return node.host.virsh("net-dumpxml", NETWORK)


def test_the_facts_of_another_host_are_those_of_its_own_socket(answering: Pair) -> None:
    node = answering.b
    facts = ask(answering.a, node, "facts")["result"]
    (pool,) = facts["pools"]
    (pf,) = pool["pfs"]
    assert (facts["host"], pool["name"], pf["address"]) == (node.host.name, "data", node.pf)
    assert [vf["address"] for vf in pf["vfs"]] == [node.vf(index) for index in range(4)]
    assert "urn:vfmigrate:ask" not in metadata(node)
    assert "urn:vfmigrate:answer" not in metadata(node)
    # the same as over the socket, except the time
    own = json.loads(node.host.run("python3", "-c", SOCKET_ASK).stdout)
    assert {**own, "time": 0} == {**facts, "time": 0}


SOCKET_ASK = """
import json, sys
sys.path.insert(0, "/usr/share/vfmigrate")
from vfmigrate.rpc import protocol
print(json.dumps(protocol.ask("facts", {})))
"""


def test_a_vf_is_reserved_and_released(answering: Pair) -> None:
    node = answering.b
    arguments: dict[str, Any] = {"domain": UUID, "mac": MAC, "strategy": "replug", "pool": "data", "vlan": 42}
    claimed = ask(answering.a, node, "claim", **arguments)["result"]
    assert list(node.product.claims()) == [claimed["vf"]]
    assert ask(answering.a, node, "claim", **arguments)["result"]["vf"] == claimed["vf"]
    assert ask(answering.a, node, "give_back", domain=UUID)["result"]["vfs"] == [claimed["vf"]]
    assert node.product.claims() == {}
    refused = ask(answering.a, node, "claim", **{**arguments, "vlan": 99})
    assert (refused["kind"], refused["problem"]) == ("refused", "VLAN 99 is not allowed in pool 'data'")


def test_requests_that_only_the_host_itself_may_send_are_denied(answering: Pair) -> None:
    assert ask(answering.a, answering.b, "reconcile")["kind"] == "denied"
    assert ask(answering.a, answering.b, "provision", pools=["data"])["kind"] == "denied"


def test_a_host_without_network_or_daemon_does_not_answer(answering: Pair) -> None:
    node = answering.b
    answering.a.host.virsh("net-destroy", NETWORK)
    told = ask(answering.b, answering.a, "ping")
    assert "libvirt runs no network of a pool" in told["problem"]
    node.product.stop()
    silent = ask(answering.a, node, "ping", timeout=0.5)
    assert (silent["kind"], "does not answer through libvirt" in silent["problem"]) == ("unreachable", True)
    assert "urn:vfmigrate:ask" not in metadata(node)
    # a request while it starts is answered: the daemon removes what it finds, and the client sends again
    waiting = node.host.spawn(
        *("env", "PYTHONPATH=/usr/share/vfmigrate", "python3", "-c", ASK),
        *("qemu:///system", "ping", "{}", "20"),
    )
    wait_for("the question", lambda: "urn:vfmigrate:ask" in metadata(node))
    node.product.start()
    assert "result" in json.loads(waiting.communicate(timeout=30)[0])


def test_the_daemon_answers_again_after_libvirt_restarted(answering: Pair) -> None:
    """The daemon listens again when libvirt is back."""
    node = answering.b
    node.restart_libvirtd()
    wait_for("an answer", lambda: "result" in ask(answering.a, node, "ping", timeout=1.0))
