# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests that travel through libvirt: the letters' form, the asking end and the answering end."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.fakes.mailbox import MemoryMailbox
from vfmigrate.errors import Denied, HostError, InputError, Refused, Unreachable, UsageError
from vfmigrate.journal import Journal
from vfmigrate.rpc import network_metadata, protocol
from vfmigrate.rpc.protocol import Request
from vfmigrate.rpc.remote_client import Remote
from vfmigrate.rpc.remote_server import Postman

if TYPE_CHECKING:
    from vfmigrate.virt.mailbox import Mailbox  # imports libvirt-python, which is not here

NETWORK = "vfmigrate-data"
ID = "11111111-2222-4333-8444-555555555555"
ASK, ANSWER = network_metadata.ASK + ID, network_metadata.ANSWER + ID


class Office:
    """A host that answers letters; time passes as the test says."""

    def __init__(self, log: Journal) -> None:
        self.box = MemoryMailbox(NETWORK)
        self.now = 1000.0
        self.asked: list[Request] = []
        self.padding = ""
        self.postman = Postman(cast("Mailbox", self.box), self.answer, log, clock=lambda: self.now)

    def answer(self, request: Request) -> dict[str, Any]:
        self.asked.append(request)
        if request.name == "claim":
            raise Refused("pool 'data' has no free VF", "add one")
        return {"got": dict(request.arguments), "padding": self.padding}

    def open(self) -> None:
        self.box.on_change = self.postman.notice
        self.postman.start()

    def remote(self) -> Remote:
        return Remote(cast("Mailbox", self.box), "host-b")


@pytest.fixture
def office() -> Iterator[Office]:
    log = Journal(Path("/nonexistent"))
    office = Office(log)
    yield office
    office.postman.stop()
    log.close()


def question(name: str = "facts", **arguments: Any) -> str:
    return network_metadata.wrap(protocol.encode_request(name, arguments), network_metadata.MAX_ASK_BYTES)


def lying(office: Office) -> list[str]:
    return office.box.uris(NETWORK)


# -- the form


@pytest.mark.parametrize("text", ['{"a": "<&>\'\\" ä\\u0000"}', "x"])
def test_what_is_wrapped_comes_out_again(text: str) -> None:
    line = text.encode() + b"\n"
    assert network_metadata.unwrap(network_metadata.wrap(line, 100), 100) == line


def test_a_long_line_is_not_sent() -> None:
    with pytest.raises(InputError, match="too long"):
        network_metadata.wrap(b"x" * 101, 100)


@pytest.mark.parametrize(
    "element",
    [
        "<letter>" + "x" * 101 + "</letter>",
        "<letter>" + "x" * 1000 + "</letter>",
        "<letter><b/>x</letter>",
        "<letter/>",
        "nonsense",
        '<!DOCTYPE l [<!ENTITY a "b">]><letter>&a;</letter>',
    ],
)
def test_what_is_no_letter_is_refused(element: str) -> None:
    with pytest.raises(InputError):
        network_metadata.unwrap(element, 100)


def test_names_of_letters() -> None:
    assert network_metadata.ask_id(ASK) == ID
    assert network_metadata.letter_id(ANSWER) == ID
    for other in (ANSWER, "urn:vfmigrate:ask:", ASK + "0", ASK.upper(), "urn:vfmigrate:network:1"):
        assert network_metadata.ask_id(other) is None


def test_letters_are_found_among_other_metadata() -> None:
    xml = f"""<network><name>n</name><metadata>
      <p:pool xmlns:p='urn:vfmigrate:network:1' name='data'/><a xmlns='{ASK}'/><b xmlns='{ANSWER}'/><c/>
    </metadata></network>"""
    assert list(network_metadata.uris(xml)) == [ASK, ANSWER]
    assert list(network_metadata.uris("<network/>")) == []


# -- asking and answering


def test_a_question_is_answered_and_nothing_stays(office: Office) -> None:
    office.open()
    assert office.remote().ask("facts", {"a": "ä<"}) == {"got": {"a": "ä<"}, "padding": ""}
    assert lying(office) == []


def test_a_failure_travels(office: Office) -> None:
    office.open()
    with pytest.raises(Refused, match="no free VF") as caught:
        office.remote().ask("claim", {})
    assert caught.value.remedy == "add one"
    assert lying(office) == []


def test_only_what_is_for_others_is_answered(office: Office) -> None:
    office.open()
    for name in ("hook", "reconcile", "provision", "departure"):
        with pytest.raises(Denied):
            office.remote().ask(name, {})
    with pytest.raises(UsageError):
        office.remote().ask("nonsense", {})
    assert office.asked == []


def test_nobody_answers(office: Office) -> None:
    with pytest.raises(Unreachable, match="vfmigrated on host-b does not answer"):
        office.remote().ask("facts", {}, timeout=0.2)
    assert lying(office) == []


def test_there_is_no_network_to_ask_through(office: Office) -> None:
    office.box.stop(NETWORK)
    with pytest.raises(Unreachable, match="host-b runs no network") as caught:
        office.remote().ask("facts", {}, timeout=0.2)
    assert caught.value.remedy == "run on host-b: vfmigrate provision"


@pytest.mark.parametrize("how", ["restart", "sweep"])
def test_a_question_that_gets_lost_is_asked_again(office: Office, how: str) -> None:
    lost: list[str] = []

    def lose(network: str, uri: str) -> None:
        if network_metadata.ask_id(uri) is not None and not lost:
            lost.append(uri)
            office.box.restart(network) if how == "restart" else office.postman.sweep()
            office.open()

    office.box.on_change = lose
    assert office.remote().ask("facts", {}) == {"got": {}, "padding": ""}
    assert len(office.asked) == 1


@pytest.mark.parametrize("said", ["nonsense", "[" * 60_000, "null", "[]", '{"result": 1}'])
def test_an_answer_that_is_none(office: Office, said: str) -> None:
    def spoil(network: str, uri: str) -> None:
        identity = network_metadata.ask_id(uri)
        if identity is not None and office.box.read(network, uri) is not None:
            office.box.on_change = lambda *_: None
            office.box.write(network, network_metadata.ANSWER + identity, f"<letter>{said}</letter>")

    office.box.on_change = spoil
    with pytest.raises(Unreachable, match="what answers at host-b is not vfmigrated"):
        office.remote().ask("facts", {}, timeout=5)


def test_libvirt_refuses(office: Office) -> None:
    office.box.read_only = True
    with pytest.raises(HostError, match="read only"):
        office.remote().ask("facts", {})


# -- the answering end alone


@pytest.mark.parametrize("element", ["<letter>nonsense</letter>", "<letter><x/></letter>", "<letter/>"])
def test_nonsense_gets_an_error(office: Office, element: str) -> None:
    office.box.write(NETWORK, ASK, element)
    office.postman.deliver(NETWORK, ID)
    answer = office.box.read(NETWORK, ANSWER)
    assert answer is not None
    assert b'"kind": "input"' in network_metadata.unwrap(answer, network_metadata.MAX_ANSWER_BYTES)


def test_an_answer_that_is_too_long_is_an_error(office: Office) -> None:
    office.box.write(NETWORK, ASK, question())
    office.padding = "x" * network_metadata.MAX_ANSWER_BYTES
    office.postman.deliver(NETWORK, ID)
    answer = office.box.read(NETWORK, ANSWER)
    assert answer is not None
    assert "too long" in answer


def test_what_nobody_asks_any_more_is_not_answered(office: Office) -> None:
    office.postman.deliver(NETWORK, ID)
    assert (office.asked, lying(office)) == ([], [])


def test_an_answer_that_nobody_fetches_is_swept_later(office: Office) -> None:
    office.box.write(NETWORK, ASK, question())
    office.postman.deliver(NETWORK, ID)
    office.postman.sweep()
    assert set(lying(office)) == {ASK, ANSWER}  # its client may be about to fetch it
    office.now += 61
    office.postman.sweep()
    assert lying(office) == []


def test_what_earlier_daemons_left_is_swept_at_once(office: Office) -> None:
    office.box.write(NETWORK, ASK, question())
    office.box.write(NETWORK, ANSWER, question())
    office.box.write(NETWORK, "urn:vfmigrate:network:1", "<pool/>")
    office.postman.sweep()
    assert list(office.box.letters[NETWORK]) == ["urn:vfmigrate:network:1"]


def test_a_flood_is_bounded(office: Office) -> None:
    for _ in range(200):
        uri = network_metadata.ASK + str(uuid.uuid4())
        office.box.write(NETWORK, uri, question())
        office.postman.notice(NETWORK, uri)
    office.postman.start()
    end = time.monotonic() + 5
    while (
        sum(uri.startswith(network_metadata.ANSWER) for uri in lying(office)) < 64 and time.monotonic() < end
    ):
        time.sleep(0.01)
    office.postman.stop()
    assert len(office.asked) == 64
    office.now += 61
    office.postman.sweep()
    assert lying(office) == []
