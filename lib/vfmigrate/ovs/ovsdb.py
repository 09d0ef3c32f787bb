# SPDX-License-Identifier: GPL-2.0-or-later
"""Transactions with ovsdb-server: connections, values and errors of RFC 7047.

Bridges and ports are the business of `vfmigrate.ovs.openvswitch`. No table is monitored or read as a whole, because
the cost of a transaction must not grow with the number of ports. So this uses `ovs.jsonrpc` and not `ovs.db.idl`,
which downloads the database first.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any, Optional

import ovs.jsonrpc
import ovs.poller
import ovs.stream

from vfmigrate import deadline, locks
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.os_errors import DENIED_REMEDY

Operation = Mapping[str, Any]
Row = Mapping[str, Any]
Condition = list[Any]
"""Column, function and value (RFC 7047, 5.1)."""

_START = "run: systemctl start openvswitch-switch (Debian) or systemctl start openvswitch (Fedora, EL)"


DOOR = Door("ovsdb-server", "see systemctl status ovsdb-server", Unreachable)


class TransactionError(HostError):
    """ovsdb-server did not commit. `error` is the reason it gives (RFC 7047, 3.1 and 5.2)."""

    def __init__(self, error: str, details: str = "") -> None:
        super().__init__(f"Open vSwitch's database refused the change: {error} {details}")
        self.error = error


class GuardError(TransactionError):
    """The condition of a `wait` operation does not hold, so its transaction changed nothing."""


class ConnectionLost(Unreachable):
    """The connection broke between a request and its answer: the transaction may have been committed."""


def atoms(value: Any) -> list[Any]:
    """The members of an OVSDB set as JSON writes it: a bare atom stands for a set of one (RFC 7047, 5.1)."""
    if isinstance(value, list) and value and value[0] == "set":
        return list(value[1])
    return [value]


def optional(value: Any) -> Any:
    """The member of a set of at most one, or None."""
    members = atoms(value)
    return members[0] if members else None


def pairs(value: Any) -> dict[str, Any]:
    """An OVSDB map as a dict (RFC 7047, 5.1)."""
    return dict(value[1])


def to_set(members: Iterable[Any]) -> list[Any]:
    """The JSON notation of an OVSDB set."""
    return ["set", list(members)]


def to_map(mapping: Mapping[str, Any]) -> list[Any]:
    """The JSON notation of an OVSDB map."""
    return ["map", [[key, mapping[key]] for key in sorted(mapping)]]


def to_optional(member: Any) -> list[Any]:
    """The JSON notation of a set of at most one; None is the empty set."""
    return to_set([] if member is None else [member])


def named(name: str) -> list[Condition]:
    """The condition that a row has this name."""
    return [["name", "==", name]]


def row(uuid: Any) -> list[Condition]:
    """The condition that picks one row. Only for this one ovsdb-server does not search the table."""
    return [["_uuid", "==", uuid]]


def select(table: str, where: list[Condition], *columns: str) -> Operation:
    """The `select` operation: the named columns of the rows that meet the conditions (RFC 7047, 5.2.2)."""
    return {"op": "select", "table": table, "where": where, "columns": list(columns)}


def mutate(table: str, where: list[Condition], *mutations: list[Any]) -> Operation:
    """The `mutate` operation; each mutation is column, mutator and value (RFC 7047, 5.2.4)."""
    return {"op": "mutate", "table": table, "where": where, "mutations": list(mutations)}


def delete(table: str, uuid: Any) -> Operation:
    """The `delete` operation for one row (RFC 7047, 5.2.5)."""
    return {"op": "delete", "table": table, "where": row(uuid)}


def guard(table: str, where: list[Condition], rows: list[Row]) -> Operation:
    """A `wait` operation: its transaction commits only if exactly `rows` meet the conditions now.

    RFC 7047, 5.2.6. All rows must name the same columns; no rows: nothing may meet the conditions.
    """
    columns = sorted(rows[0]) if rows else ["_uuid"]
    return {
        "op": "wait",
        "table": table,
        "where": where,
        "columns": columns,
        "until": "==",
        "rows": rows,
        "timeout": 0,
    }


class _Connection:
    """One JSON-RPC connection; every wait is bounded."""

    def __init__(self, remote: str, end: float) -> None:
        opened = ovs.stream.Stream.open(remote)
        error, stream = ovs.stream.Stream.open_block(opened, timeout=_milliseconds_until(end))
        if error:
            problem = f"ovsdb-server at {remote} does not answer: {os.strerror(error)}"
            raise Unreachable(problem, DENIED_REMEDY if error in (errno.EACCES, errno.EPERM) else _START)
        self._remote = remote
        self._rpc = ovs.jsonrpc.Connection(stream)

    def close(self) -> None:
        self._rpc.close()

    def alive(self) -> bool:
        """Whether the server has not closed the connection, as far as that can be seen without a request."""
        while True:
            error, message = self._rpc.recv()
            if error:
                return bool(error == errno.EAGAIN)
            self._answer_probe(message)

    def call(self, method: str, params: list[Any], end: float) -> Any:
        """The result of a request. `end` is of time.monotonic().

        Raises ConnectionLost, Unreachable when it has passed, HostError when the server said error.
        """
        request = ovs.jsonrpc.Message.create_request(method, params)
        self._rpc.send(request)
        while True:
            error, message = self._rpc.recv()
            if error == errno.EAGAIN:
                self._wait(end)
            elif error:
                reason = os.strerror(error) if error > 0 else "connection closed"
                raise ConnectionLost(f"lost ovsdb-server at {self._remote}: {reason}", _START)
            elif message.id == request.id and message.type == message.T_REPLY:
                return message.result
            elif message.id == request.id and message.type == message.T_ERROR:
                raise HostError(f"ovsdb-server at {self._remote} refused '{method}': {message.error}")
            else:
                self._answer_probe(message)

    def _answer_probe(self, message: Any) -> None:
        # Over TCP the server disconnects a client that does not answer its probes (RFC 7047, 4.1.11).
        if message.type == message.T_REQUEST and message.method == "echo":
            self._rpc.send(ovs.jsonrpc.Message.create_reply(message.params, message.id))

    def _wait(self, end: float) -> None:
        remaining = _milliseconds_until(end)
        if remaining <= 0:
            raise Unreachable(f"ovsdb-server at {self._remote} did not answer in time", _START)
        poller = ovs.poller.Poller()
        self._rpc.run()
        self._rpc.wait(poller)
        self._rpc.recv_wait(poller)
        poller.timer_wait(remaining)
        poller.block()


class Database:
    """The Open_vSwitch database of one ovsdb-server, over connections that are kept between transactions.

    Thread-safe: a connection serves one transaction at a time, and concurrent threads get one each, so that a
    transaction that waits does not block the others.
    """

    def __init__(self, remote: str, *, timeout: float) -> None:
        """Name the server: `remote` as "unix:PATH" or "tcp:ADDRESS:PORT"; `timeout` in seconds."""
        self._remote = remote
        self._timeout = timeout
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []

    def transact(self, *operations: Operation, patience: Optional[float] = None) -> list[Any]:
        """Commit all operations or none, and return their results (RFC 7047, 4.1.3).

        `patience` in seconds replaces the time-out of the constructor. Raises GuardError, TransactionError,
        ConnectionLost (it may have been committed) or Unreachable.
        """
        locks.may_take_long("asks Open vSwitch's database")
        with deadline.waiting(DOOR, self._timeout if patience is None else patience) as seconds:
            end = time.monotonic() + seconds
            connection = self._take(end)
            try:
                results = connection.call("transact", ["Open_vSwitch", *operations], end)
            except BaseException:
                # A late answer would be read as that of the next request.
                connection.close()
                raise
        with self._lock:
            self._idle.append(connection)
        _raise_failure(results)
        return list(results)

    def close(self) -> None:
        """Close the idle connections; the next transaction opens a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self, end: float) -> _Connection:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return _Connection(self._remote, end)
            if connection.alive():
                return connection
            connection.close()


def _raise_failure(results: Iterable[Any]) -> None:
    for result in results:
        if result and "error" in result:
            error = str(result["error"])
            kind = GuardError if error == "timed out" else TransactionError
            raise kind(error, str(result.get("details", "")))


def _milliseconds_until(end: float) -> int:
    return max(0, int((end - time.monotonic()) * 1000))
