# SPDX-License-Identifier: GPL-2.0-or-later
"""Which messages may be in the metadata of a network."""

from __future__ import annotations

import pytest

from vfmigrate.rpc import network_message
from vfmigrate.rpc.message_table import (
    ANSWER_SECONDS,
    EXCESS,
    KNOWN,
    MAX_ANSWERS_BYTES,
    MAX_REQUESTS,
    MAX_REQUESTS_BYTES,
    NEW,
    MessageTable,
)

NETWORK = "vfmigrate-data"
#: what libvirt sends as one text (VIR_NET_MESSAGE_STRING_MAX)
LIBVIRT_BYTES = 4194304


def uri(number: int, kind: str = network_message.REQUEST) -> str:
    return f"{kind}{number:08x}-2222-4333-8444-555555555555"


@pytest.fixture
def table() -> MessageTable:
    return MessageTable(60.0)


def test_the_limits_leave_libvirt_able_to_send_the_xml_of_the_network() -> None:
    vfs = 4096 * len("    <address type='pci' domain='0x0000' bus='0x00' slot='0x00' function='0x0'/>\n")
    assert (
        MAX_REQUESTS_BYTES + 2 * (MAX_ANSWERS_BYTES - network_message.MAX_ANSWER_BYTES) + vfs < LIBVIRT_BYTES
    )
    assert network_message.MAX_ELEMENT_BYTES <= MAX_REQUESTS_BYTES
    assert network_message.MAX_ANSWER_BYTES <= MAX_ANSWERS_BYTES


def test_a_request_is_new_once(table: MessageTable) -> None:
    assert [table.see(NETWORK, uri(1), 100, 0.0) for _ in range(2)] == [NEW, KNOWN]
    assert table.see("other", uri(1), 100, 0.0) == NEW
    table.forget(NETWORK, uri(1))
    assert table.see(NETWORK, uri(1), 100, 0.0) == NEW


def test_number_and_bytes_are_limited_for_each_network(table: MessageTable) -> None:
    few = MAX_REQUESTS_BYTES // network_message.MAX_ELEMENT_BYTES
    seen = [table.see(NETWORK, uri(each), network_message.MAX_ELEMENT_BYTES, 0.0) for each in range(few + 1)]
    assert seen == [NEW] * few + [EXCESS]
    assert [table.see("other", uri(each), 1, 0.0) for each in range(MAX_REQUESTS + 1)][-2:] == [NEW, EXCESS]
    table.forget(NETWORK, uri(0))
    assert table.see(NETWORK, uri(few), 100, 0.0) == NEW


def test_only_the_daemons_own_answers_are_known(table: MessageTable) -> None:
    answer = uri(1, network_message.ANSWER)
    assert table.see(NETWORK, answer, 100, 0.0) == EXCESS
    assert table.admit_answer(NETWORK, answer, 100, 0.0)
    assert table.see(NETWORK, answer, 150, 0.0) == KNOWN
    assert table.see(NETWORK, answer, 100_000, 0.0) == EXCESS
    assert not table.knows(NETWORK, answer)


def test_requests_and_answers_expire(table: MessageTable) -> None:
    table.see(NETWORK, uri(1), 100, 0.0)
    table.admit_answer(NETWORK, uri(2, network_message.ANSWER), 100, 0.0)
    assert not list(table.expired(ANSWER_SECONDS - 1))
    assert list(table.expired(ANSWER_SECONDS)) == [(NETWORK, uri(2, network_message.ANSWER))]
    assert len(list(table.expired(60.0))) == 2
    for network, name in table.expired(60.0):
        table.forget(network, name)
    assert not table
