# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations on Open vSwitch's database for bridges, uplinks and the settings of the switch.

Pure: values in, operations out; `ovs.openvswitch` runs them. The columns are explained in ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vfmigrate.ovs import ovsdb
from vfmigrate.ovs.ovsdb import Operation

OFFLOAD = {
    "hw-offload": "true",
    # Milliseconds after which an unused flow is removed from the hardware: longer than the downtime of a migration,
    # so that the guest finds its flows again.
    "max-idle": "300000",
}
"""The other_config of the switch with which the card switches the frames of VFs."""

UPLINK_MARK = {"vfmigrate": "uplink"}
"""In external_ids of the Interface of an uplink that we plugged: it belongs to no guest and is never removed."""

KERNEL_DATAPATH = "system"


def differing(present: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """The part of `wanted` that `present` does not have."""
    return {key: value for key, value in wanted.items() if present.get(key) != value}


def configuration(present: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[Operation]:
    """Write keys of the switch's other_config, if that is still `present`.

    An insertion does not replace a key that exists, so it is deleted first.
    """
    yield ovsdb.guard("Open_vSwitch", [], [{"other_config": ovsdb.to_map(present)}])
    yield ovsdb.mutate(
        "Open_vSwitch",
        [],
        ["other_config", "delete", ovsdb.to_set(sorted(wanted))],
        ["other_config", "insert", ovsdb.to_map(wanted)],
    )


def creation(name: str, datapath: str) -> Iterator[Operation]:
    """Make a bridge with its local port, if no bridge has this name.

    The results: of the guard, then Interface, Port and Bridge.
    """
    yield ovsdb.guard("Bridge", ovsdb.named(name), [])
    yield _insert("Interface", "interface", {"name": name, "type": "internal"})
    yield _insert("Port", "port", {"name": name, "interfaces": ["named-uuid", "interface"]})
    bridge = {"name": name, "datapath_type": datapath, "ports": ["named-uuid", "port"]}
    yield _insert("Bridge", "bridge", bridge)
    yield ovsdb.mutate("Open_vSwitch", [], ["bridges", "insert", ["named-uuid", "bridge"]])


def bridge_removal(uuid: Any) -> Operation:
    """Remove a bridge; OVSDB then deletes its rows."""
    return ovsdb.mutate("Open_vSwitch", [], ["bridges", "delete", uuid])


def uplink(bridge: str, netdev: str) -> Iterator[Operation]:
    """Plug `netdev` as a trunk of all VLANs, if the bridge exists. The results: of the guard, then Interface, Port."""
    here = ovsdb.named(bridge)
    yield ovsdb.guard("Bridge", here, [{"name": bridge}])
    interface = {"name": netdev, "external_ids": ovsdb.to_map(UPLINK_MARK)}
    yield _insert("Interface", "interface", interface)
    yield _insert("Port", "port", {"name": netdev, "interfaces": ["named-uuid", "interface"]})
    yield ovsdb.mutate("Bridge", here, ["ports", "insert", ["named-uuid", "port"]])


def removal(bridge: str, port_uuid: Any) -> Operation:
    """Remove a port from a bridge."""
    return ovsdb.mutate("Bridge", ovsdb.named(bridge), ["ports", "delete", port_uuid])


def _insert(table: str, name: str, row: Mapping[str, Any]) -> Operation:
    return {"op": "insert", "table": table, "uuid-name": name, "row": dict(row)}
