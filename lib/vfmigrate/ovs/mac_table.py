# SPDX-License-Identifier: GPL-2.0-or-later
"""What ovs-vswitchd has learned: in which VLANs of a bridge a MAC was seen.

The table is only in ovs-vswitchd, which shows it on its control socket (`fdb/show` of ovs-appctl(8)). The socket is
named after the process, and speaks JSON-RPC 1.0 (ovs/lib/unixctl.c).
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vfmigrate import locks
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.os_errors import ABSENT, DENIED_REMEDY, failed

# The tables that ovs-vswitchd allows have a million entries at most, at 40 bytes a line.
_MAX_BYTES = 64 << 20


def vlans_of(table: str, macs: Iterable[str]) -> dict[str, frozenset[int]]:
    """The VLANs of each MAC in the text of `fdb/show`: lines of port, VLAN, MAC and age; VLAN 0 is no tag."""
    found: dict[str, set[int]] = {mac: set() for mac in macs}
    for line in table.splitlines():
        words = line.split()
        if len(words) == 4 and words[2] in found and words[1].isdigit():
            found[words[2]].add(int(words[1]))
    return {mac: frozenset(vlans) for mac, vlans in found.items()}


def control_socket(rundir: Path) -> Path:
    """The control socket of the ovs-vswitchd whose PID file is in this directory.

    Raises Unreachable when none runs, HostError where that cannot be seen.
    """
    file = rundir / "ovs-vswitchd.pid"
    try:
        pid = int(file.read_text(encoding="ascii"))
    except (*ABSENT, ValueError):
        raise Unreachable("ovs-vswitchd does not run", "see systemctl status ovs-vswitchd") from None
    except OSError as error:
        raise failed(f"see whether ovs-vswitchd runs: read {file}", error) from None
    return rundir / f"ovs-vswitchd.{pid}.ctl"


def show(path: Path, bridge: str, timeout: float) -> str:
    """The table of a bridge. `timeout` in seconds bounds the whole call.

    Raises Unreachable when nobody answers at `path`, HostError for a bridge that ovs-vswitchd does not have.
    """
    locks.may_take_long("asks ovs-vswitchd for a MAC table")
    end = time.monotonic() + timeout
    request = {"id": 0, "method": "fdb/show", "params": [bridge]}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode())
            answer = _answer(connection, end)
    except OSError as error:
        reason = error.strerror or str(error)
        denied = isinstance(error, PermissionError)
        remedy = DENIED_REMEDY if denied else "see systemctl status ovs-vswitchd"
        raise Unreachable(f"no answer from {path}: {reason}", remedy) from error
    if not isinstance(answer, dict) or answer.get("error") is not None:
        said = str(answer.get("error") if isinstance(answer, dict) else answer).strip()[:200]
        raise HostError(f"ovs-vswitchd does not show the MAC table of bridge '{bridge}': {said}")
    return str(answer.get("result") or "")


def _answer(connection: socket.socket, end: float) -> Any:
    """The first JSON value that arrives; the connection stays open behind it."""
    data = b""
    while len(data) <= _MAX_BYTES:
        connection.settimeout(max(0.001, end - time.monotonic()))
        part = connection.recv(1 << 16)
        if not part:
            raise ConnectionResetError("connection closed")
        data += part
        if part.rstrip().endswith(b"}"):  # only then it can be complete
            try:
                return json.loads(data)
            except ValueError:
                continue
    raise ConnectionResetError("its answer is too long")
