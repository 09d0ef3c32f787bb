# SPDX-License-Identifier: GPL-2.0-or-later
"""A bridge, its uplink and the switch's own settings as operations on Open vSwitch's database.

Pure: values in, operations out; `ovs.openvswitch` runs them. The columns are explained in ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vfmigrate.ovs import ovsdb
from vfmigrate.ovs.ovsdb import Operation

OFFLOAD = {
    "hw-offload": "true",
    # Milliseconds after which an unused flow leaves the hardware: a guest that pauses for a migration or is merely
    # quiet should find its flows again.
    "max-idle": "300000",
}
"""What the switch's other_config must say for VFs to be switched by the card."""

UPLINK_MARK = {"vfmigrate": "uplink"}
"""In external_ids of the Interface of an uplink we plugged: it belongs to no guest and is never cleaned up."""

KERNEL_DATAPATH = "system"


def differing(present: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The part of `wanted` that `present` does not say."""
    return {key: value for key, value in wanted.items() if present.get(key) != value}


def configuration(present: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[Operation]:
    """Write keys of the switch's other_config, provided that it is still what was looked at.

    An insertion leaves a key alone that is there, so the old ones are deleted before.
    """
    yield ovsdb.guard("Open_vSwitch", [], [{"other_config": ovsdb.to_map(present)}])
    yield ovsdb.mutate(
        "Open_vSwitch",
        [],
        ["other_config", "delete", ovsdb.to_set(sorted(wanted))],
        ["other_config", "insert", ovsdb.to_map(wanted)],
    )


def creation(name: str, datapath: str) -> Iterator[Operation]:
    """Make a bridge with its local port, provided that there is none of this name.

    The results: the guard's, then Interface, Port and Bridge.
    """
    yield ovsdb.guard("Bridge", ovsdb.named(name), [])
    yield _insert("Interface", "interface", {"name": name, "type": "internal"})
    yield _insert("Port", "port", {"name": name, "interfaces": ["named-uuid", "interface"]})
    bridge = {"name": name, "datapath_type": datapath, "ports": ["named-uuid", "port"]}
    yield _insert("Bridge", "bridge", bridge)
    yield ovsdb.mutate("Open_vSwitch", [], ["bridges", "insert", ["named-uuid", "bridge"]])


def dissolution(uuid: Any) -> Operation:
    """Take a bridge away; its rows go when nothing refers to them."""
    return ovsdb.mutate("Open_vSwitch", [], ["bridges", "delete", uuid])


def uplink(bridge: str, netdev: str) -> Iterator[Operation]:
    """Plug `netdev` as a trunk of all VLANs, provided that the bridge is there: the guard's, Interface, Port."""
    here = ovsdb.named(bridge)
    yield ovsdb.guard("Bridge", here, [{"name": bridge}])
    interface = {"name": netdev, "external_ids": ovsdb.to_map(UPLINK_MARK)}
    yield _insert("Interface", "interface", interface)
    yield _insert("Port", "port", {"name": netdev, "interfaces": ["named-uuid", "interface"]})
    yield ovsdb.mutate("Bridge", here, ["ports", "insert", ["named-uuid", "port"]])


def removal(bridge: str, port_uuid: Any) -> Operation:
    """Take a port off a bridge."""
    return ovsdb.mutate("Bridge", ovsdb.named(bridge), ["ports", "delete", port_uuid])


def _insert(table: str, name: str, row: Mapping[str, Any]) -> Operation:
    return {"op": "insert", "table": table, "uuid-name": name, "row": dict(row)}
