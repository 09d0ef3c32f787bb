# SPDX-License-Identifier: GPL-2.0-or-later
"""OVSDB's JSON notation of values (RFC 7047, 5.1) and of guards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmigrate.ovs import ovsdb

UUID = st.uuids().map(lambda uuid: ["uuid", str(uuid)])
ATOM = st.one_of(st.integers(), st.text(), st.booleans(), UUID)


def as_the_server_writes(members: list[Any]) -> Any:
    return members[0] if len(members) == 1 else ["set", members]


@given(st.lists(ATOM))
def test_a_set_is_written_and_read(members: list[Any]) -> None:
    assert ovsdb.atoms(as_the_server_writes(members)) == members
    assert ovsdb.atoms(ovsdb.to_set(members)) == members


@given(st.none() | ATOM)
def test_an_optional_value_is_written_and_read(member: Any) -> None:
    assert ovsdb.optional(ovsdb.to_optional(member)) == member
    assert ovsdb.optional(as_the_server_writes([] if member is None else [member])) == member


@given(st.dictionaries(st.text(), st.text()))
def test_a_map_is_written_and_read(mapping: dict[str, str]) -> None:
    assert ovsdb.pairs(ovsdb.to_map(mapping)) == mapping


@pytest.mark.parametrize(
    ("rows", "columns"),
    [([], ["_uuid"]), ([{"tag": 1, "name": "a"}, {"tag": 2, "name": "b"}], ["name", "tag"])],
)
def test_a_guard_compares_the_given_columns(rows: list[ovsdb.Row], columns: list[str]) -> None:
    guard = ovsdb.guard("Port", ovsdb.named("a"), rows)
    assert (guard["columns"], guard["rows"], guard["timeout"]) == (columns, rows, 0)


def test_an_error_is_one_line_with_the_servers_message() -> None:
    error = ovsdb.TransactionError("constraint violation", "two rows\nhave the same name")
    assert (
        str(error)
        == "Open vSwitch's database refused the change: constraint violation two rows have the same name"
    )
