# SPDX-License-Identifier: GPL-2.0-or-later
"""`ovs-10000-ports`: the time to plug a port when the database holds thousands of ports, relative to a few.

ovs-vswitchd goes through all its ports whenever one is added, and `plug` waits for it. The promise does not include
that time: database server, rows and client are real, but a process in place of ovs-vswitchd confirms configurations in
a time that does not depend on the number of ports. A second figure is measured with a real ovs-vswitchd that serves
the ports.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from tests.bench.measure import Result, Turn, ratios, repeated, typical
from tests.integration.ovs_server import OvsServer
from vfmigrate.ovs import ovsdb
from vfmigrate.ovs.openvswitch import OpenVswitch, PortSettings

FEW, MANY, WORKING = 10, 10_000, 1_000
ROUNDS, SWITCH_ROUNDS = 100, 5
AIM = 1.15
BATCH = 1_000
BRIDGE, CROWDED, NETDEV = "br-data", "br-crowd", "rep0"
OWNER = "77e1a3d0-3c5b-4b0e-8d0c-2c1f6d7e8f90/52:54:00:00:00:02"
SETTINGS = PortSettings(
    tag=42,
    external_ids={
        "iface-id": "0f4e2d1c-aaaa-bbbb-cccc-ddddeeeeffff",
        "attached-mac": "52:54:00:00:00:02",
        "vm-id": "77e1a3d0-3c5b-4b0e-8d0c-2c1f6d7e8f90",
        "iface-status": "active",
    },
)
AN_HOUR_S = 3600


def results() -> list[Result]:
    """Measure both figures."""
    return [_database(), _working_switch()]


def _database() -> Result:
    with ExitStack() as stack:
        turns = {}
        for count in (FEW, MANY):
            server = stack.enter_context(_server())
            server.stop_switch()
            _crowd(server, count)
            stack.enter_context(confirming(server, _confirm))
            door = stack.enter_context(closing(OpenVswitch(server.remote, timeout=60)))
            turns[count] = Turn(_plug(door), _unplug(door))
        runs = repeated(turns, ROUNDS)
    few_ms = typical(runs, FEW) * 1000
    against = f"relative to {FEW} ports ({few_ms:.1f} ms); without ovs-vswitchd's own time"
    return Result("ovs-10000-ports", ratios(runs, MANY, FEW), AIM, against)


def _working_switch() -> Result:
    with ExitStack() as stack:
        turns = {}
        for count in (FEW, WORKING):
            server = stack.enter_context(_server())
            _crowd(server, count)
            door = stack.enter_context(closing(OpenVswitch(server.remote, timeout=60)))
            turns[count] = Turn(_plug(door), _unplug(door, server))
        runs = repeated(turns, SWITCH_ROUNDS)
    few_ms = typical(runs, FEW) * 1000
    against = f"relative to {FEW} ports ({few_ms:.1f} ms); with ovs-vswitchd's own time"
    return Result("ovs-1000-ports-with-switch", ratios(runs, WORKING, FEW), None, against)


def _plug(door: OpenVswitch) -> Callable[[], object]:
    return lambda: door.plug(BRIDGE, NETDEV, OWNER, SETTINGS)


def _unplug(door: OpenVswitch, server: Optional[OvsServer] = None) -> Callable[[], object]:
    """Remove the port; with a `server`, wait until its ovs-vswitchd has done so."""

    def unplug() -> None:
        door.unplug(NETDEV, OWNER)
        if server is not None:
            server.vsctl("remove", "Open_vSwitch", ".", "external_ids", "nothing")

    return unplug


@contextmanager
def _server() -> Iterator[OvsServer]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vfmigrate-bench-"))
        server = stack.enter_context(OvsServer(Path(folder), dummy=True))
        server.add_bridge(BRIDGE)
        server.add_bridge(CROWDED)
        server.add_link(NETDEV)
        yield server


def _crowd(server: OvsServer, count: int) -> None:
    """Fill the second bridge with ports."""
    with closing(ovsdb.Database(server.remote, timeout=60)) as database:
        for begin in range(0, count, BATCH):
            database.transact(*_ports(range(begin, min(count, begin + BATCH))))


def _ports(numbers: range) -> Iterator[ovsdb.Operation]:
    for number in numbers:
        interface, port = f"interface{number}", f"port{number}"
        ids = ovsdb.to_map({"iface-id": f"{number:036}", "attached-mac": "52:54:00:00:00:01"})
        columns: dict[str, Any] = {"name": f"crowd{number}", "type": "dummy", "external_ids": ids}
        yield {"op": "insert", "table": "Interface", "uuid-name": interface, "row": columns}
        columns = {
            "name": f"crowd{number}",
            "tag": number % 4094 + 1,
            "interfaces": ["named-uuid", interface],
        }
        yield {"op": "insert", "table": "Port", "uuid-name": port, "row": columns}
    ports = ovsdb.to_set(["named-uuid", f"port{number}"] for number in numbers)
    yield ovsdb.mutate("Bridge", ovsdb.named(CROWDED), ["ports", "insert", ports])


@contextmanager
def confirming(server: OvsServer, confirm: Callable[[str], None]) -> Iterator[None]:
    """A process that confirms configurations during a `with` block, in place of ovs-vswitchd."""
    process = multiprocessing.get_context("fork").Process(target=confirm, args=(server.remote,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _confirm(remote: str) -> None:
    """Act for BRIDGE as ovs-vswitchd does: number the ports of each new configuration, then confirm it."""
    database = ovsdb.Database(remote, timeout=AN_HOUR_S)
    for number in configurations(database):
        (bridge,) = database.transact(ovsdb.select("Bridge", ovsdb.named(BRIDGE), "ports"))
        ports = ovsdb.atoms(bridge["rows"][0]["ports"])
        found = database.transact(*(ovsdb.select("Port", ovsdb.row(port), "interfaces") for port in ports))
        interfaces = [row["interfaces"] for result in found for row in result["rows"]]
        database.transact(
            *(
                {"op": "update", "table": "Interface", "where": ovsdb.row(uuid), "row": {"ofport": ofport}}
                for ofport, uuid in enumerate(interfaces, start=1)
            ),
            {"op": "update", "table": "Open_vSwitch", "where": [], "row": {"cur_cfg": number}},
        )


def configurations(database: ovsdb.Database) -> Iterator[int]:
    """The number of each new configuration of the switch, as it comes."""
    seen = 0
    while True:
        changed = {
            "op": "wait",
            "table": "Open_vSwitch",
            "where": [],
            "columns": ["next_cfg"],
            "until": "!=",
            "rows": [{"next_cfg": seen}],
            "timeout": AN_HOUR_S * 1000,
        }
        _, switch = database.transact(changed, ovsdb.select("Open_vSwitch", [], "next_cfg"))
        seen = switch["rows"][0]["next_cfg"]
        yield seen
