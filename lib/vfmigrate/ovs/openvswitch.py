# SPDX-License-Identifier: GPL-2.0-or-later
"""Open vSwitch of this host: ports of bridges, and frames that a bridge is to send.

It changes only ports that vfmigrate made, which have OWNER_KEY in the external_ids of the Interface. Every change is
one transaction with its own conditions: if what was read has changed, nothing happens, and it is read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, TypeVar

from vfmigrate import deadline
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.ovs import bridge as bridges
from vfmigrate.ovs import mac_table, ovsdb, switchport
from vfmigrate.ovs.openflow import OpenFlowConnection
from vfmigrate.ovs.ovsdb import ConnectionLost, GuardError, Operation, TransactionError
from vfmigrate.ovs.switchport import OWNER_KEY, PortRows, PortSettings, SwitchPort
from vfmigrate.text import quoted

__all__ = ["OWNER_KEY", "OpenVswitch", "PortSettings", "SwitchPort"]

_RUNDIR = Path("/run/openvswitch")
_ATTEMPTS = 10
# Up to this many rows are searched by name.
_SEARCHES = 200
# For what is done once after boot, while no guest waits: ovs-vswitchd can have to load its kernel module first.
_SETTING_UP_SECONDS = 60.0
# For removing a port that ovs-vswitchd did not take in time, of which nobody but us knows.
_REMOVAL_SECONDS = 2.0
_SWITCH = Door("ovs-vswitchd", "see systemctl status ovs-vswitchd", Unreachable)

_Result = TypeVar("_Result")
_Meanwhile = Optional[Callable[[], object]]


class OpenVswitch:
    """Open vSwitch of this host, through ovsdb-server's and the bridges' OpenFlow sockets. Thread-safe."""

    def __init__(
        self,
        remote: str = "unix:/run/openvswitch/db.sock",
        *,
        timeout: float = 5.0,
        rundir: Optional[Path] = None,
        datapath: str = bridges.KERNEL_DATAPATH,
        control: Optional[Path] = None,
    ) -> None:
        """Name the database server; connections are opened when they are needed.

        `timeout` in seconds bounds each wait, for the database and for ovs-vswitchd. `rundir` holds the
        bridges' OpenFlow sockets; it is the directory of the database's socket unless given. `datapath` is the
        datapath_type of the bridges we make; only the kernel's can be offloaded to a card. `control` is the control
        socket of ovs-vswitchd, which `rundir` has unless given.
        """
        kind, _, address = remote.partition(":")
        self._database = ovsdb.Database(remote, timeout=timeout)
        self._timeout = timeout
        self._datapath = datapath
        self._control = control
        self._rundir = rundir or (Path(address).parent if kind == "unix" else _RUNDIR)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        self._database.close()

    def bridge_exists(self, name: str) -> bool:
        """Whether the database has a bridge of that name. Raises Unreachable, as all methods below do."""
        return bool(self._select("Bridge", ovsdb.named(name), "_uuid"))

    def datapath(self, name: str) -> Optional[str]:
        """The datapath_type of a bridge, `system` being the kernel's; None without the bridge."""
        found = self._select("Bridge", ovsdb.named(name), "datapath_type")
        # an empty one is the kernel's, too (ovs-vswitchd.conf.db(5))
        return (found[0]["datapath_type"] or bridges.KERNEL_DATAPATH) if found else None

    def port(self, name: str) -> Optional[SwitchPort]:
        """The port of that name, on any bridge, or None."""
        rows = self._look_at(name)
        return rows.port if rows else None

    def owned_ports(self) -> list[SwitchPort]:
        """Every port that vfmigrate made, by name. Its cost grows with these ports, not with the others."""
        marked = [["external_ids", "includes", ovsdb.to_map(switchport.MARK)]]
        rows = self._select("Interface", marked, *switchport.SHOWN_INTERFACE_COLUMNS)
        if not rows:
            return []
        interfaces = {row["name"]: row for row in rows}
        ports = self._ports_with_bridges(sorted(interfaces))
        found = [switchport.shown(bridge, port, interfaces[port["name"]]) for port, bridge in ports]
        return [port for port in found if port.owner is not None]

    def _ports_with_bridges(self, names: Sequence[str]) -> list[tuple[ovsdb.Row, str]]:
        """The rows of those of the named ports that exist, each with the name of its bridge, in the order given."""
        if len(names) > _SEARCHES:
            # Each search by name compares all rows of the table: for many names, reading it once is quicker.
            every, bridge_rows = self._database.transact(
                ovsdb.select("Port", [], *switchport.SHOWN_PORT_COLUMNS),
                ovsdb.select("Bridge", [], "name", "ports"),
            )
            of_name = {row["name"]: row for row in every["rows"]}
            ports = [of_name[name] for name in names if name in of_name]
            holders = {
                uuid: row["name"] for row in bridge_rows["rows"] for _, uuid in ovsdb.atoms(row["ports"])
            }
            return [(port, holders[port["_uuid"][1]]) for port in ports if port["_uuid"][1] in holders]
        looks = [ovsdb.select("Port", ovsdb.named(name), *switchport.SHOWN_PORT_COLUMNS) for name in names]
        ports = [row for result in self._database.transact(*looks) for row in result["rows"]]
        where = [ovsdb.select("Bridge", [["ports", "includes", port["_uuid"]]], "name") for port in ports]
        bridges_of = [result["rows"] for result in (self._database.transact(*where) if where else [])]
        # Without a bridge: removed meanwhile.
        return [(port, rows[0]["name"]) for port, rows in zip(ports, bridges_of) if rows]

    def plug(
        self,
        bridge: str,
        netdev: str,
        owner: str,
        settings: PortSettings,
        *,
        meanwhile: _Meanwhile = None,
    ) -> SwitchPort:
        """Plug `netdev` into `bridge` for `owner`, with these settings; idempotent.

        Returns when ovs-vswitchd uses the port. `meanwhile` is called when the port is in the database, before
        ovs-vswitchd is waited for; a HostError that it raises counts as if the port could not be used. Raises HostError
        when the bridge is missing, when the port is on another bridge or has another owner (nothing is changed), when
        ovs-vswitchd cannot use the port (which is removed again), or does not say in time whether it can (a port that
        is new is removed).
        """
        return _persist(netdev, lambda: self._plug(bridge, netdev, owner, settings, meanwhile))

    def unplug(self, netdev: str, owner: str) -> bool:
        """Remove the port if it still belongs to `owner`; False when it does not or does not exist.

        Returns when the database has the change, whether or not ovs-vswitchd runs: it applies it when it does.
        """
        return _persist(netdev, lambda: self._unplug(netdev, owner))

    def settings(self) -> dict[str, str]:
        """The switch's other_config."""
        return ovsdb.pairs(self._select("Open_vSwitch", [], "other_config")[0]["other_config"])

    def configure(self, wanted: Mapping[str, str]) -> None:
        """Write keys of the switch's other_config; other keys are kept."""

        def attempt() -> None:
            present = self.settings()
            if bridges.differing(present, wanted):
                self._commit(bridges.configuration(present, wanted))

        _persist("the configuration", attempt)

    def add_bridge(self, name: str) -> None:
        """Make a bridge, if it does not exist.

        Returns when ovs-vswitchd uses it. Raises HostError when it cannot, and removes the bridge then.
        """
        if self.bridge_exists(name):
            return
        try:
            number, results = self._commit(bridges.creation(name, self._datapath))
        except GuardError:
            return  # made meanwhile by another program
        interface, port, made = (result["uuid"] for result in results[1:4])
        try:
            self._at_work(number, name, name, port, interface, seconds=_SETTING_UP_SECONDS)
        except HostError as failure:
            self._database.transact(bridges.bridge_removal(made))
            raise HostError(
                f"cannot create bridge {name}: {failure.problem}", failure.remedy or "modprobe openvswitch"
            ) from failure

    def bridge_of(self, netdev: str) -> Optional[str]:
        """The bridge into which a network device is plugged, by itself or in a bond; None when it is in none."""
        for interface in self._select("Interface", ovsdb.named(netdev), "_uuid"):
            for port in self._select("Port", [["interfaces", "includes", interface["_uuid"]]], "_uuid"):
                found = self._select("Bridge", [["ports", "includes", port["_uuid"]]], "name")
                if found:
                    return str(found[0]["name"])
        return None

    def add_uplink(self, name: str, netdev: str) -> None:
        """Plug `netdev` into the bridge `name` as a trunk of all VLANs, if it is not there.

        Returns when ovs-vswitchd uses it. Raises HostError when it is on another bridge or cannot be used.
        """
        present = self.bridge_of(netdev)
        if present == name:
            return
        if present is not None:
            raise HostError(
                f"uplink {netdev} is on bridge {present}, not on {name}",
                f"ovs-vsctl del-port {quoted(present)} {quoted(netdev)}",
            )
        try:
            number, results = self._commit(bridges.uplink(name, netdev))
        except GuardError as failure:
            raise HostError(f"Open vSwitch has no bridge '{name}'") from failure
        interface, port = (result["uuid"] for result in results[1:3])
        try:
            self._at_work(number, name, netdev, port, interface, seconds=_SETTING_UP_SECONDS)
        except HostError:
            self._database.transact(bridges.removal(name, port))
            raise

    def packet_out(self, bridge: str, ofport: int, frame: bytes) -> None:
        """Have `bridge` switch `frame` as normal traffic that came in by port `ofport`.

        An access port's VLAN applies to it as to any frame of that port. Raises HostError or Unreachable.
        """
        path = self._rundir / f"{bridge}.mgmt"
        with (
            deadline.waiting(_SWITCH, self._timeout) as seconds,
            OpenFlowConnection(path, seconds) as connection,
        ):
            connection.inject(ofport, frame)

    def seen_in(self, bridge: str, macs: Iterable[str]) -> dict[str, frozenset[int]]:
        """The VLANs in which a bridge has seen frames of these MACs in the last minutes; 0 is no tag.

        Raises HostError or Unreachable.
        """
        with deadline.waiting(_SWITCH, self._timeout) as seconds:
            path = self._control or mac_table.control_socket(self._rundir)
            return mac_table.vlans_of(mac_table.show(path, bridge, seconds), macs)

    def _plug(
        self, bridge: str, netdev: str, owner: str, settings: PortSettings, meanwhile: _Meanwhile
    ) -> SwitchPort:
        try:
            number, results = self._commit(switchport.insertion(bridge, netdev, owner, settings))
        except GuardError as failure:
            remedy = f"create it: ovs-vsctl add-br {quoted(bridge)}"
            raise HostError(f"Open vSwitch has no bridge '{bridge}'", remedy) from failure
        except TransactionError as failure:
            # The index of the table says whether the name is taken: a select would search the table.
            if failure.error != "constraint violation":
                raise
            return self._plug_again(bridge, netdev, owner, settings, meanwhile)
        interface_uuid, port_uuid = (result["uuid"] for result in results[1:3])
        try:
            if meanwhile is not None:
                meanwhile()
            return self._at_work(number, bridge, netdev, port_uuid, interface_uuid)
        except HostError:
            with deadline.at_least(_REMOVAL_SECONDS):
                self.unplug(netdev, owner)
            raise

    def _plug_again(
        self, bridge: str, netdev: str, owner: str, settings: PortSettings, meanwhile: _Meanwhile
    ) -> SwitchPort:
        rows = self._look_at(netdev)
        if rows is None:
            self._refuse_if_bonded(netdev)
            raise GuardError("the port was removed meanwhile")
        _refuse_unless_ours(rows.port, bridge, owner)
        number = None
        if not rows.satisfies(settings):
            number, _ = self._commit(switchport.update(rows, owner, settings))
        if meanwhile is not None:
            meanwhile()
        if number is None:
            return rows.port
        return self._at_work(number, bridge, netdev, rows.port_uuid, rows.interface_uuid)

    def _commit(self, changes: Iterator[Operation]) -> tuple[int, list[Any]]:
        """Commit changes that ovs-vswitchd is to confirm; returns the configuration's number and the results."""
        bump = ovsdb.mutate("Open_vSwitch", [], ["next_cfg", "+=", 1])
        *results, counter = self._database.transact(
            *changes, bump, ovsdb.select("Open_vSwitch", [], "next_cfg")
        )
        return int(counter["rows"][0]["next_cfg"]), results

    def _at_work(
        self,
        number: int,
        bridge: str,
        netdev: str,
        port_uuid: Any,
        interface_uuid: Any,
        *,
        seconds: float = 0.0,
    ) -> SwitchPort:
        """The port, once ovs-vswitchd has confirmed configuration `number` and uses the port.

        Raises HostError when ovs-vswitchd does not confirm in time, or cannot use the network device (the port is
        removed again): it confirms a configuration also when it failed. `seconds` replaces the time-out of the
        constructor if it is longer.
        """
        # The server ends the wait, before our own time is up, which is for a server that does not.
        seconds = min(max(seconds, self._timeout), deadline.left() / 2)
        confirmed = {
            "op": "wait",
            "table": "Open_vSwitch",
            "where": [["cur_cfg", ">=", number]],
            "columns": ["cur_cfg"],
            "until": "!=",
            "rows": [],
            "timeout": int(seconds * 1000),
        }
        try:
            _, ports, interfaces = self._database.transact(
                confirmed,
                ovsdb.select("Port", ovsdb.row(port_uuid), *switchport.PORT_COLUMNS),
                ovsdb.select("Interface", ovsdb.row(interface_uuid), *switchport.INTERFACE_COLUMNS),
                patience=seconds * 2,
            )
        except GuardError as failure:
            raise HostError(
                f"ovs-vswitchd did not configure port {netdev} of bridge {bridge} within {seconds:.3g} s",
                "see systemctl status ovs-vswitchd",
            ) from failure
        if not ports["rows"] or not interfaces["rows"]:
            raise HostError(
                f"port {netdev} of bridge {bridge} was removed by another program while it was plugged"
            )
        port = PortRows.parse(bridge, ports["rows"][0], interfaces["rows"][0]).port
        if port.error or port.ofport is None:
            if port.owner:
                self.unplug(netdev, port.owner)
            reason = port.error or "ovs-vswitchd gave it no port number"
            raise HostError(f"Open vSwitch cannot use {netdev} as a port of bridge {bridge}: {reason}")
        return port

    def _unplug(self, netdev: str, owner: str) -> bool:
        rows = self._look_at(netdev)
        if rows is None or rows.port.owner != owner:
            return False
        removal = list(switchport.removal(rows, owner))
        unused = self._unused_rows(rows)
        while True:
            try:
                self._database.transact(*removal, *unused)
                return True
            except TransactionError as failure:
                # Another port uses that QoS or Queue: keep it.
                if not unused or failure.error != "referential integrity violation":
                    raise
                unused = unused[:1] if len(unused) > 1 else []

    def _unused_rows(self, rows: PortRows) -> list[Operation]:
        """The rows to delete with the port, its QoS first: OVSDB does not delete unused QoS and Queue rows itself."""
        if rows.qos is None:
            return []
        found = self._select("QoS", [["_uuid", "==", rows.qos]], "queues")
        queues = sorted(ovsdb.pairs(found[0]["queues"]).values()) if found else []
        return [ovsdb.delete("QoS", rows.qos), *(ovsdb.delete("Queue", queue) for queue in queues)]

    def _look_at(self, name: str) -> Optional[PortRows]:
        rows = self._look([name])
        return rows[0] if rows else None

    def _look(self, names: list[str]) -> list[PortRows]:
        """The rows of those of the named ports that exist, in two transactions.

        A select by name searches the table, which takes longer the more ports there are, so it is done once.
        """
        looks = [ovsdb.select("Port", ovsdb.named(name), *switchport.PORT_COLUMNS) for name in names]
        ports = [
            row for result in (self._database.transact(*looks) if looks else []) for row in result["rows"]
        ]
        if not ports:
            return []
        results = self._database.transact(*(look for port in ports for look in switchport.around(port)))
        answers = [result["rows"] for result in results]
        # Without bridge or interface: removed meanwhile.
        return [
            PortRows.parse(bridges[0]["name"], port, *interfaces)
            for port, bridges, interfaces in zip(ports, answers[::2], answers[1::2])
            if bridges and interfaces
        ]

    def _refuse_if_bonded(self, netdev: str) -> None:
        name = ovsdb.named(netdev)
        ports, interfaces = self._database.transact(
            ovsdb.select("Port", name, "_uuid"), ovsdb.select("Interface", name, "_uuid")
        )
        if interfaces["rows"] and not ports["rows"]:
            raise HostError(
                f"{netdev} is part of a bond in Open vSwitch",
                "remove it from the bond: a VF needs a port of its own",
            )

    def _select(self, table: str, where: list[ovsdb.Condition], *columns: str) -> list[Any]:
        return list(self._database.transact(ovsdb.select(table, where, *columns))[0]["rows"])


def _persist(netdev: str, attempt: Callable[[], _Result]) -> _Result:
    """Try again when something changed in between or the connection broke."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return attempt()
        except (GuardError, ConnectionLost):
            continue
    try:
        return attempt()
    except GuardError as failure:
        problem = f"port {netdev} in Open vSwitch was changed by another program during {_ATTEMPTS} attempts"
        raise HostError(problem, "see which other controller manages this port") from failure


def _refuse_unless_ours(port: SwitchPort, bridge: str, owner: str) -> None:
    remedy = f"if nothing uses it: ovs-vsctl del-port {quoted(port.bridge)} {quoted(port.name)}"
    if port.owner != owner:
        holder = f"belongs to '{port.owner}'" if port.owner else "was not made by vfmigrate"
        raise HostError(
            f"port {port.name} of bridge {port.bridge} {holder}, so '{owner}' cannot have it", remedy
        )
    if port.bridge != bridge:
        raise HostError(f"port {port.name} is on bridge {port.bridge}, not on {bridge}", remedy)
