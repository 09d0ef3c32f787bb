# SPDX-License-Identifier: GPL-2.0-or-later
"""The rows of a port, and when they satisfy the wanted settings."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfmigrate.ovs import ovsdb
from vfmigrate.ovs.switchport import MARK, OWNER_KEY, PortRows, PortSettings, insertion, removal, update

PORT_UUID, INTERFACE_UUID = ["uuid", "11"], ["uuid", "22"]
VLAN = st.integers(1, 4094)
SETTINGS = st.builds(
    PortSettings,
    tag=st.none() | VLAN,
    trunks=st.lists(VLAN, unique=True).map(tuple),
    external_ids=st.dictionaries(st.sampled_from(["iface-id", "vm-id", "site"]), st.text(max_size=3)),
)


def parse(port: dict[str, Any], interface: dict[str, Any]) -> PortRows:
    nothing = ovsdb.to_set([])
    port_row = {
        "_uuid": PORT_UUID,
        "name": "rep0",
        "tag": nothing,
        "trunks": nothing,
        "vlan_mode": nothing,
        "qos": nothing,
        **port,
    }
    interface_row = {
        "_uuid": INTERFACE_UUID,
        "external_ids": ovsdb.to_map({}),
        "ofport": 3,
        "error": nothing,
        "mtu_request": nothing,
        **interface,
    }
    return PortRows.parse("br", port_row, interface_row)


def inserted(settings: PortSettings) -> PortRows:
    """The rows as they are once the operations that make the port were carried out."""
    operations = list(insertion("br", "rep0", "me", settings))
    rows = {each["table"]: dict(each["row"]) for each in operations if each["op"] == "insert"}
    return parse(rows["Port"], rows["Interface"])


@given(SETTINGS)
def test_an_inserted_port_satisfies_its_settings(settings: PortSettings) -> None:
    rows = inserted(settings)
    assert rows.satisfies(settings)
    assert rows.port.owner == "me"
    assert rows.port.external_ids == {**settings.external_ids, **MARK, OWNER_KEY: "me"}


@given(SETTINGS, SETTINGS)
def test_only_equal_settings_are_satisfied(made: PortSettings, wanted: PortSettings) -> None:
    def essence(settings: PortSettings) -> object:
        trunks, ids = frozenset(settings.trunks), {**settings.external_ids}
        # A key that is not one of the integration's may stay when it is no longer named.
        return settings.tag, trunks, {key: ids.get(key) for key in ("iface-id", "vm-id")}

    extra = "site" in wanted.external_ids and made.external_ids.get("site") != wanted.external_ids["site"]
    assert inserted(made).satisfies(wanted) == (essence(made) == essence(wanted) and not extra)


@pytest.mark.parametrize(
    ("ofport", "error", "expected"),
    [
        (5, [], 5),
        (-1, "could not open network device rep0 (No such device)", None),
        (ovsdb.to_set([]), [], None),
    ],
)
def test_a_port_in_use_has_a_number(ofport: Any, error: Any, expected: Optional[int]) -> None:
    rows = parse({}, {"ofport": ofport, "error": error or ovsdb.to_set([])})
    assert rows.port.ofport == expected
    assert rows.port.error == (error or None)
    ours = parse(
        {}, {"ofport": ofport, "error": error or ovsdb.to_set([]), "external_ids": ovsdb.to_map(MARK)}
    )
    assert ours.satisfies(PortSettings()) == (expected is not None)


def test_a_port_without_our_key_has_no_owner() -> None:
    assert parse({"tag": 5, "trunks": ["set", [9, 8]]}, {}).port.owner is None
    assert parse({"tag": 5, "trunks": ["set", [9, 8]]}, {}).port.trunks == (8, 9)


@pytest.mark.parametrize("operations", [update, removal], ids=["update", "removal"])
def test_a_change_requires_the_row_and_its_owner(operations: Any) -> None:
    rows = inserted(PortSettings())
    extra = [PortSettings(tag=1)] if operations is update else []
    first = next(iter(operations(rows, "me", *extra)))
    owner = ["external_ids", "includes", ["map", [[OWNER_KEY, "me"]]]]
    assert (first["op"], first["where"]) == ("wait", [["_uuid", "==", INTERFACE_UUID], owner])


def test_an_update_removes_keys_that_the_settings_no_longer_have() -> None:
    rows = inserted(PortSettings(tag=42, external_ids={"iface-id": "x"}))
    port, interface = (list(update(rows, "me", PortSettings()))[index] for index in (2, 3))
    assert port["row"] == {name: ["set", []] for name in ("tag", "trunks", "vlan_mode")}
    column, mutator, value = interface["mutations"][0]
    assert (column, mutator) == ("external_ids", "delete")
    assert "iface-id" in ovsdb.atoms(value)
