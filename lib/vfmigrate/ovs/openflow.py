# SPDX-License-Identifier: GPL-2.0-or-later
"""The one OpenFlow message that vfmigrate needs: give a bridge a frame as if it had come in by one of its ports.

Sent over the bridge's management socket, in any version that the bridge supports (its `protocols` can be
restricted). Section numbers are those of the OpenFlow Switch Specification 1.5.1 unless said otherwise.
"""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

from vfmigrate import locks
from vfmigrate.errors import HostError, Unreachable
from vfmigrate.os_errors import DENIED_REMEDY

VERSIONS = (1, 2, 3, 4, 5, 6)
"""The wire versions that we support: OpenFlow 1.0 to 1.5 (7.1.1)."""

HELLO, ERROR, ECHO_REQUEST, ECHO_REPLY, PACKET_OUT = 0, 1, 2, 3, 13
# OpenFlow 1.0 (its section 5.1) numbers the barrier differently from all later ones.
BARRIER_REPLY = {1: 19, 2: 21, 3: 21, 4: 21, 5: 21, 6: 21}

HEADER = struct.Struct("!BBHI")
"""Version, type, length of the whole message, transaction id (7.1.1)."""

_NO_BUFFER = 0xFFFFFFFF
_NORMAL_16, _NORMAL_32 = 0xFFFA, 0xFFFFFFFA
_OXM_IN_PORT = 0x80000004
_PACKET_OUT_XID, _BARRIER_XID = 2, 3
# By type and code (7.5.4.1); the second and third are those of 1.1 to 1.4 and 1.5 for a port out of range.
_ERRORS = {
    (0, 0): "no common OpenFlow version",
    (1, 11): "no such port",
    (4, 7): "no such port",
}


def message(version: int, kind: int, xid: int, body: bytes = b"") -> bytes:
    """A message with its header."""
    return HEADER.pack(version, kind, HEADER.size + len(body), xid) + body


def hello() -> bytes:
    """A HELLO with the bitmap of all versions that we support (7.5.1)."""
    bitmap = sum(1 << version for version in VERSIONS)
    return message(max(VERSIONS), HELLO, 1, struct.pack("!HHI", 1, 8, bitmap))


def common_version(version: int, body: bytes) -> int:
    """The highest version in common with the sender of a HELLO with this header version and body; 0 for none.

    A switch without the bitmap supports every version up to the one in its header (7.5.1).
    """
    offered = {each for each in VERSIONS if each <= version}
    while len(body) >= 4:
        kind, length = struct.unpack_from("!HH", body)
        if kind == 1 and length >= 8:
            bitmap = struct.unpack_from("!I", body, 4)[0]
            offered = {each for each in VERSIONS if bitmap >> each & 1}
        body = body[max(4, (length + 7) // 8 * 8) :]
    return max(offered, default=0)


def packet_out(version: int, xid: int, in_port: int, frame: bytes) -> bytes:
    """PACKET_OUT with the single action "output to NORMAL": the bridge learns and forwards as usual.

    Layouts: 1.0 section 5.3.6, 1.1 to 1.4 `ofp_packet_out` with in_port, 1.5 section 7.3.6 with a match.
    """
    if version == 1:
        action = struct.pack("!HHHH", 0, 8, _NORMAL_16, 0)
        fixed = struct.pack("!IHH", _NO_BUFFER, in_port, len(action))
        return message(version, PACKET_OUT, xid, fixed + action + frame)
    action = struct.pack("!HHIH6x", 0, 16, _NORMAL_32, 0)
    if version < 6:
        fixed = struct.pack("!IIH6x", _NO_BUFFER, in_port, len(action))
    else:
        match = struct.pack("!HHII4x", 1, 12, _OXM_IN_PORT, in_port)
        fixed = struct.pack("!IH2x", _NO_BUFFER, len(action)) + match
    return message(version, PACKET_OUT, xid, fixed + action + frame)


class OpenFlowConnection:
    """A connection to a bridge over its management socket; a context, closed when it is left."""

    def __init__(self, path: Path, timeout: float) -> None:
        """Connect and agree on a version. `timeout` in seconds bounds the whole connection.

        Raises Unreachable when no bridge answers at `path`, HostError without a common version.
        """
        locks.may_take_long("talks OpenFlow to a bridge")
        self._path = path
        self._deadline = time.monotonic() + timeout
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(str(path))
            self._socket.sendall(hello())
            self._version = self._greeted()
        except OSError as error:
            self._socket.close()
            raise self._unreachable(error) from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> OpenFlowConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def inject(self, in_port: int, frame: bytes) -> None:
        """Have the bridge switch `frame` as if received on OpenFlow port `in_port`; returns when it has.

        Raises HostError when the bridge refuses it, Unreachable when it does not answer.
        """
        barrier = message(self._version, BARRIER_REPLY[self._version] - 1, _BARRIER_XID)
        try:
            self._socket.sendall(packet_out(self._version, _PACKET_OUT_XID, in_port, frame) + barrier)
            while True:
                kind, xid, body = self._receive()[1:]
                if kind == ERROR and xid in (_PACKET_OUT_XID, _BARRIER_XID):
                    raise self._refused(body, f"packet-out on port {in_port}")
                if kind == BARRIER_REPLY[self._version] and xid == _BARRIER_XID:
                    return
        except OSError as error:
            raise self._unreachable(error) from error

    def _greeted(self) -> int:
        offered, kind, _, body = self._receive()
        if kind == ERROR:
            raise self._refused(body, "hello")
        version = common_version(offered, body) if kind == HELLO else 0
        if not version:
            raise HostError(f"{self._path} supports no OpenFlow version from 1.0 to 1.5")
        return version

    def _receive(self) -> tuple[int, int, int, bytes]:
        """The next message that is not a probe: version, type, transaction id and body."""
        while True:
            version, kind, length, xid = HEADER.unpack(self._read(HEADER.size))
            body = self._read(length - HEADER.size)
            if kind != ECHO_REQUEST:
                return version, kind, xid, body
            self._socket.sendall(message(version, ECHO_REPLY, xid, body))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            part = self._socket.recv(size - len(data))
            if not part:
                raise ConnectionResetError("connection closed")
            data += part
        return data

    def _refused(self, body: bytes, what: str) -> HostError:
        kind, code = struct.unpack_from("!HH", body.ljust(4, b"\0"))
        text = _ERRORS.get((kind, code), f"OpenFlow error type {kind} code {code}")
        return HostError(f"{self._path} refused {what}: {text}")

    def _unreachable(self, error: OSError) -> Unreachable:
        reason = error.strerror or str(error)
        return Unreachable(
            f"no OpenFlow answer from {self._path}: {reason}",
            DENIED_REMEDY
            if isinstance(error, PermissionError)
            else "see whether the bridge exists (ovs-vsctl list-br) and ovs-vswitchd runs",
        )
