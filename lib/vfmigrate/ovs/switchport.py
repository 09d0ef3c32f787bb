# SPDX-License-Identifier: GPL-2.0-or-later
"""A port that vfmigrate made, as rows of Open vSwitch's database, and the operations that make, change and remove it.

Pure: rows in, values and operations out; `vfmigrate.ovs.openvswitch` runs them. The columns are explained in
ovs-vswitchd.conf.db(5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from vfmigrate.ovs import ovsdb
from vfmigrate.ovs.ovsdb import Condition, Operation, Row

OWNER_KEY = "vfmigrate-owner"
"""The external_ids key of an Interface that names the owner of the port."""

MARK = {"vfmigrate": "port"}
"""In external_ids of every Interface of ours: OVSDB can search a map for a pair, but not for a key alone."""

# What OVN and Neutron read. These keys are removed when the settings no longer have them; others are kept.
_INTEGRATION_KEYS = ("iface-id", "attached-mac", "vm-id", "iface-status")

PORT_COLUMNS = ("_uuid", "name", "interfaces", "tag", "trunks", "vlan_mode", "qos")
INTERFACE_COLUMNS = ("_uuid", "external_ids", "ofport", "error", "mtu_request")
# What a SwitchPort is read from.
SHOWN_PORT_COLUMNS = ("_uuid", "name", "tag", "trunks")
SHOWN_INTERFACE_COLUMNS = ("name", "external_ids", "ofport", "error")


@dataclass(frozen=True)
class PortSettings:
    """The wanted settings of a port: access VLAN `tag`, `trunks`, and its Interface's external_ids.

    A tag alone makes an access port; with trunks, frames of the tag's VLAN are untagged and the others tagged.
    """

    tag: Optional[int] = None
    trunks: tuple[int, ...] = ()
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SwitchPort:
    """The present state of a port in the database. `owner` is None for a port that vfmigrate did not make.

    `ofport` is None while ovs-vswitchd has not configured the port, or cannot; `error` says why.
    """

    name: str
    bridge: str
    tag: Optional[int]
    trunks: tuple[int, ...]
    external_ids: Mapping[str, str]
    owner: Optional[str]
    ofport: Optional[int]
    error: Optional[str]


def shown(bridge: str, port: Row, interface: Row) -> SwitchPort:
    """Read a port with a single interface from its rows: SHOWN_PORT_COLUMNS and SHOWN_INTERFACE_COLUMNS."""
    external_ids = ovsdb.pairs(interface["external_ids"])
    number = ovsdb.optional(interface["ofport"])
    return SwitchPort(
        name=port["name"],
        bridge=bridge,
        tag=ovsdb.optional(port["tag"]),
        trunks=tuple(sorted(ovsdb.atoms(port["trunks"]))),
        external_ids=external_ids,
        owner=external_ids.get(OWNER_KEY),
        # ovs-vswitchd writes -1 when it could not create the port.
        ofport=number if number is not None and number > 0 else None,
        error=ovsdb.optional(interface["error"]),
    )


@dataclass(frozen=True)
class PortRows:
    """The rows of a port: what transactions need besides SwitchPort."""

    port: SwitchPort
    port_uuid: Any
    interface_uuid: Any
    vlan_mode: Optional[str]
    mtu_request: Optional[int]
    qos: Any

    @classmethod
    def parse(cls, bridge: str, port: Row, interface: Row) -> PortRows:
        """Read the rows of a port with a single interface: PORT_COLUMNS and INTERFACE_COLUMNS."""
        return cls(
            port=shown(bridge, port, interface),
            port_uuid=port["_uuid"],
            interface_uuid=interface["_uuid"],
            vlan_mode=ovsdb.optional(port["vlan_mode"]),
            mtu_request=ovsdb.optional(interface["mtu_request"]),
            qos=ovsdb.optional(port["qos"]),
        )

    def satisfies(self, settings: PortSettings) -> bool:
        """Whether the port has these settings and ovs-vswitchd uses it, so that nothing is to be written.

        No port of ours has an mtu_request: the MTU of a representor is set on the network device.
        """
        port = self.port
        wanted = {**settings.external_ids, **MARK}
        stale = [key for key in _INTEGRATION_KEYS if key in port.external_ids and key not in wanted]
        return (
            not stale
            and wanted.items() <= port.external_ids.items()
            and (port.tag, port.trunks) == (settings.tag, tuple(sorted(settings.trunks)))
            and (self.vlan_mode, self.mtu_request) == (_vlan_mode(settings), None)
            and port.ofport is not None
            and port.error is None
        )


def around(port: Row) -> Iterator[Operation]:
    """Select the bridge that has the port, and its interface."""
    yield ovsdb.select("Bridge", [["ports", "includes", port["_uuid"]]], "name")
    # The first interface of a bond is enough to see that the port is not ours.
    yield ovsdb.select("Interface", ovsdb.row(ovsdb.atoms(port["interfaces"])[0]), *INTERFACE_COLUMNS)


def insertion(bridge: str, netdev: str, owner: str, settings: PortSettings) -> Iterator[Operation]:
    """Make the port, if the bridge exists. The results: of the guard, then Interface and Port.

    If the name is taken, it fails with "constraint violation": names are unique in both tables.
    """
    here = ovsdb.named(bridge)
    yield ovsdb.guard("Bridge", here, [{"name": bridge}])
    interface = {
        "name": netdev,
        "external_ids": ovsdb.to_map(_external_ids(owner, settings)),
    }
    port = {"name": netdev, "interfaces": ["named-uuid", "interface"], **_port_columns(settings)}
    yield {"op": "insert", "table": "Interface", "uuid-name": "interface", "row": interface}
    yield {"op": "insert", "table": "Port", "uuid-name": "port", "row": port}
    yield ovsdb.mutate("Bridge", here, ["ports", "insert", ["named-uuid", "port"]])


def update(rows: PortRows, owner: str, settings: PortSettings) -> Iterator[Operation]:
    """Give the port these settings, if it still has this owner and bridge."""
    port, interface = ovsdb.row(rows.port_uuid), ovsdb.row(rows.interface_uuid)
    wanted = _external_ids(owner, settings)
    outdated = sorted({*_INTEGRATION_KEYS, *wanted})
    yield _still_owned(rows, owner)
    yield ovsdb.guard("Bridge", _holding(rows), [{"name": rows.port.bridge}])
    yield {"op": "update", "table": "Port", "where": port, "row": _port_columns(settings)}
    yield ovsdb.mutate(
        "Interface",
        interface,
        ["external_ids", "delete", ovsdb.to_set(outdated)],
        ["external_ids", "insert", ovsdb.to_map(wanted)],
    )
    no_mtu = {"mtu_request": ovsdb.to_set([])}
    yield {"op": "update", "table": "Interface", "where": interface, "row": no_mtu}


def removal(rows: PortRows, owner: str) -> Iterator[Operation]:
    """Remove the port from its bridge, if it still has this owner; OVSDB then deletes its rows."""
    yield _still_owned(rows, owner)
    yield ovsdb.mutate("Bridge", _holding(rows), ["ports", "delete", rows.port_uuid])
    # OVSDB checks references before it deletes unreferenced rows, so the port must drop a QoS that is to be deleted.
    yield {
        "op": "update",
        "table": "Port",
        "where": ovsdb.row(rows.port_uuid),
        "row": {"qos": ovsdb.to_set([])},
    }


def _still_owned(rows: PortRows, owner: str) -> Operation:
    # A port that was removed and plugged again is another row, so the condition names row and owner.
    includes = ["external_ids", "includes", ovsdb.to_map({OWNER_KEY: owner})]
    return ovsdb.guard("Interface", [*ovsdb.row(rows.interface_uuid), includes], [{"name": rows.port.name}])


def _holding(rows: PortRows) -> list[Condition]:
    return [["ports", "includes", rows.port_uuid]]


def _vlan_mode(settings: PortSettings) -> Optional[str]:
    # Without a mode a tag makes an access port, which has no trunks.
    return "native-untagged" if settings.tag is not None and settings.trunks else None


def _external_ids(owner: str, settings: PortSettings) -> dict[str, str]:
    return {**settings.external_ids, **MARK, OWNER_KEY: owner}


def _port_columns(settings: PortSettings) -> dict[str, Any]:
    """All columns that we set, also to empty: a column that is not named keeps its value."""
    return {
        "tag": ovsdb.to_optional(settings.tag),
        "trunks": ovsdb.to_set(sorted(settings.trunks)),
        "vlan_mode": ovsdb.to_optional(_vlan_mode(settings)),
    }
