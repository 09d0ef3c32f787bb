# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests to the other host's vfmigrated through libvirt: real libvirt, network metadata and events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.pair import Node, Pair
from vfmigrate.model import host_facts

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


#: writes elements into the metadata of a network, as any user can who may write it: a prefix of namespaces, how many,
#: and their bytes
FLOOD = """
import sys, uuid
import libvirt
prefix, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
network = libvirt.open("qemu:///system").networkLookupByName("vfmigrate-data")
for _ in range(count):
    network.setMetadata(
        libvirt.VIR_NETWORK_METADATA_ELEMENT, "<m>%s</m>" % ("x" * size), "m", prefix + str(uuid.uuid4()),
        libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE,
    )
"""


def flood(node: Node, prefix: str, count: int, size: int) -> None:
    node.host.run("python3", "-c", FLOOD, prefix, str(count), str(size))


def dumped(node: Node) -> str:
    """The XML of the network; empty when libvirt cannot send it."""
    return node.host.run("virsh", "net-dumpxml", NETWORK, check=False).stdout.strip()


@pytest.mark.parametrize(
    "prefix", ["urn:vfmigrate:ask:", "urn:vfmigrate:answer:", "urn:vfmigrate:ask:malformed-"]
)
def test_a_flood_of_messages_is_removed(answering: Pair, prefix: str) -> None:
    """More than libvirt can send as one text: without the daemon nobody could read the network's XML again."""
    node = answering.b
    flood(node, prefix, 400, 15_000)
    wait_for("the messages to be few", lambda: 0 < len(dumped(node)) < 400_000, 60.0)
    assert "result" in ask(answering.a, node, "ping")
    if prefix != "urn:vfmigrate:ask:":  # these are removed at once, requests when they were answered
        wait_for("the messages to be gone", lambda: "urn:vfmigrate:a" not in dumped(node), 60.0)


def test_a_flood_while_no_daemon_ran_is_removed(answering: Pair) -> None:
    """Libvirt cannot send the network's XML, and so nobody can list what is in it."""
    node = answering.b
    node.product.stop()
    flood(node, "urn:vfmigrate:ask:", 400, 15_000)
    assert dumped(node) == ""
    node.product.start()
    wait_for(
        "the messages to be gone",
        lambda: "<uuid>" in (xml := dumped(node)) and "urn:vfmigrate:ask" not in xml,
        60.0,  # libvirt writes the whole state of the network at each removal
    )
    assert "result" in ask(answering.a, node, "ping")


def test_an_answer_that_nobody_fetches_is_removed(answering: Pair) -> None:
    node = answering.b
    node.host.run("python3", "-c", QUESTION)
    wait_for("the answer", lambda: "urn:vfmigrate:answer" in metadata(node))
    assert "urn:vfmigrate:ask" not in metadata(node)
    wait_for("the answer to be gone", lambda: "urn:vfmigrate:answer" not in metadata(node), 30.0)


QUESTION = """
import uuid
import libvirt
network = libvirt.open("qemu:///system").networkLookupByName("vfmigrate-data")
line = '{"version": 1, "request": "ping", "arguments": {}}'
network.setMetadata(
    libvirt.VIR_NETWORK_METADATA_ELEMENT, "<m>%s</m>" % line, "m", "urn:vfmigrate:ask:" + str(uuid.uuid4()),
    libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE,
)
"""


def test_a_request_is_about_the_pool_of_its_network(answering: Pair) -> None:
    """A network that claims to be of another pool: the configuration decides, not its metadata."""
    node = answering.b
    fake = """<network><name>forged</name><uuid>33333333-3333-4333-8333-333333333333</uuid>
    <metadata><v:pool xmlns:v='urn:vfmigrate:network:1' name='forged'/></metadata>
    <bridge name='virbr-forged'/></network>"""
    node.host.virsh("net-create", "/dev/stdin", stdin=fake)
    try:
        claim: dict[str, Any] = {"domain": UUID, "mac": MAC, "strategy": "replug", "vlan": 42}
        denied = ask(answering.a, node, "claim", **claim, pool="forged")
        assert (denied["kind"], "belongs to no pool of this host" in denied["problem"]) == ("denied", True)
        assert node.product.claims() == {}
        assert ask(answering.a, node, "claim", **claim, pool="data")["result"]["pool"] == "data"
        assert ask(answering.a, node, "give_back", domain=UUID, pool="data")["result"]["vfs"] != []
    finally:
        node.host.virsh("net-destroy", "forged")


def test_a_slot_of_a_foreign_guest_is_refused(answering: Pair) -> None:
    """No VF is plugged into a guest, and none is taken for one, that does not ask for it in its own metadata."""
    node = answering.b
    guest = Guest("g", [Vf(node.vf(1), MAC, vlan=42)])
    node.start_guest(guest)
    uuid = node.host.virsh("domuuid", "g").strip()
    before = node.product.claims()
    claim: dict[str, Any] = {
        "domain": uuid,
        "mac": MAC,
        "strategy": "replug",
        "pool": "data",
        "slot": "0000:05:00.0",
    }
    assert ask(answering.a, node, "claim", **claim)["kind"] == "refused"
    new = {**claim, "mac": "52:54:00:00:00:08", "incoming": True}
    assert "already runs on this host" in ask(answering.a, node, "claim", **new)["problem"]
    assert node.product.claims() == before


def test_files_are_answered_only_where_libvirt_names_them(answering: Pair) -> None:
    node = answering.b
    node.host.path("/srv/images").mkdir(exist_ok=True)
    node.host.path("/srv/images/disk").write_text("x")
    paths = ["/srv/images/disk", "/srv/images/absent", "/etc/shadow"]
    pool = "<pool type='dir'><name>images</name><target><path>/srv/images</path></target></pool>"

    def found() -> list[object]:
        answer = ask(answering.a, node, "facts", **host_facts.file_arguments("salt", paths))["result"]
        return [each["exists"] for each in answer["files"]]

    assert found() == [None, None, None]
    node.host.virsh("pool-create", "/dev/stdin", stdin=pool)
    try:
        assert found() == [True, False, None]
    finally:
        node.host.virsh("pool-destroy", "images")
