# SPDX-License-Identifier: GPL-2.0-or-later
"""The protocol of the daemon's socket, and which user can send which request. Documented in docs/protocol.md.

A request and its answer are one line of JSON each, in UTF-8:

    {"version": 1, "request": "hook", "arguments": {...}}
    {"version": 1, "result": {...}}
    {"version": 1, "error": {"kind": "refused", "problem": "...", "remedy": "..."}}

A connection carries any number of them, one after the other.
"""

from __future__ import annotations

import json
import pwd
import socket
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

from vfmigrate.errors import KINDS, Denied, InputError, Unreachable, UsageError, VfmigrateError
from vfmigrate.model.limits import MAX_XML_BYTES
from vfmigrate.os_errors import failed

VERSION = 1
SOCKET = Path("/run/vfmigrate/vfmigrated.sock")

#: an escaped character of XML takes at most six bytes of JSON
MAX_LINE_BYTES = 6 * MAX_XML_BYTES + 65536
#: only root sends XML
MAX_LINE_BYTES_OF_OTHERS = 65536

#: the longest time in seconds that `provision` can wait for a card
LONGEST_WAIT = 600.0

#: requests of root, of root and the configured readers, of root and the configured clients
ROOT_ONLY = frozenset({"hook", "reconcile", "provision"})
READING = frozenset({"status", "facts", "trace", "ping"})
RESERVING = frozenset({"claim", "keep", "give_back", "departure", "counters", "pools"})
#: all requests of the daemon's socket
REQUESTS = ROOT_ONLY | READING | RESERVING

#: requests that other hosts can send through libvirt (remote_server.py); to execute one twice is harmless
REMOTE = frozenset({"facts", "trace", "claim", "give_back", "counters", "ping"})


@dataclass(frozen=True)
class Request:
    """One request, checked for its form only."""

    name: str
    arguments: Mapping[str, Any]
    #: whether who sent it has gone, and will never read an answer
    sender_left: Callable[[], bool] = field(default=lambda: False, compare=False, repr=False)

    def text(self, key: str) -> str:
        """A text argument. Raises UsageError when it is missing or anything else."""
        value = self.arguments.get(key)
        if not isinstance(value, str):
            raise UsageError(f"request '{self.name}' needs the text '{key}'")
        return value

    def optional_text(self, key: str) -> Optional[str]:
        """A text argument, None when it is missing. Raises UsageError when it is anything else."""
        return None if self.arguments.get(key) is None else self.text(key)

    def optional_number(self, key: str, low: int, high: int) -> Optional[int]:
        """A whole number within limits, None when it is missing. Raises UsageError when it is anything else."""
        value: object = self.arguments.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"'{key}' of request '{self.name}' is not a number from {low} to {high}")
        return value

    def words(self, key: str) -> list[str]:
        """A list of texts, empty when it is missing. Raises UsageError when it is anything else."""
        value = self.arguments.get(key, [])
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise UsageError(f"'{key}' of request '{self.name}' is not a list of texts")
        return value

    def flag(self, key: str) -> bool:
        """True or false, false when it is missing. Raises UsageError when it is anything else."""
        value = self.arguments.get(key, False)
        if not isinstance(value, bool):
            raise UsageError(f"'{key}' of request '{self.name}' is neither true nor false")
        return value

    def seconds(self, key: str, at_most: float) -> float:
        """A time in seconds, 0 when it is missing. Raises UsageError when it is anything else."""
        value = self.arguments.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= at_most:
            raise UsageError(f"'{key}' of request '{self.name}' is not a number of seconds up to {at_most:g}")
        return float(value)


def decode_request(line: bytes, known: Container[str] = REQUESTS) -> Request:
    """Read the line of one of the `known` requests. Raises InputError or UsageError."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError("the request is not a line of JSON") from None
    if not isinstance(raw, dict):
        raise InputError("the request is not a JSON object")
    if raw.get("version") != VERSION:
        raise UsageError(
            f"the request has version {str(raw.get('version'))[:10]}; this daemon supports version {VERSION}",
            "install the same version of vfmigrate for hook, CLI and daemon",
        )
    name, arguments = raw.get("request"), raw.get("arguments", {})
    if not isinstance(name, str) or name not in known:
        raise UsageError(f"unknown request '{str(name)[:20]}'")
    if not isinstance(arguments, dict):
        raise InputError("the request's arguments are not a JSON object")
    return Request(name, arguments)


def encode_request(name: str, arguments: Mapping[str, Any]) -> bytes:
    """The line of a request."""
    return json.dumps({"version": VERSION, "request": name, "arguments": arguments}).encode() + b"\n"


def encode_result(result: Mapping[str, Any]) -> bytes:
    """The line of an answer with a result."""
    return json.dumps({"version": VERSION, "result": result}).encode() + b"\n"


def plain(error: VfmigrateError) -> dict[str, str]:
    """An error, as in answers."""
    return {"kind": error.kind, "problem": error.problem, "remedy": error.remedy}


def failure(body: Mapping[str, Any]) -> VfmigrateError:
    """The error in an answer."""
    kind = KINDS.get(str(body.get("kind")), VfmigrateError)
    return kind(str(body.get("problem", "")), str(body.get("remedy", "")))


def encode_error(error: VfmigrateError) -> bytes:
    """The line of an answer with an error."""
    body = plain(error)
    return json.dumps({"version": VERSION, "error": body}).encode() + b"\n"


def authorize(
    request: Request, uid: int, readers: frozenset[str], clients: frozenset[str] = frozenset()
) -> None:
    """Raises Denied when the user `uid` (from SO_PEERCRED) has no right to send the request."""
    if uid == 0:
        return
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    allowed = {"readers": (READING, readers), "clients": (READING | RESERVING, clients)}
    if any(request.name in requests and user in users for requests, users in allowed.values()):
        return
    key = next((key for key, (requests, _) in allowed.items() if request.name in requests), None)
    raise Denied(
        f"user '{user}' has no right to send the request '{request.name}' to vfmigrated",
        f"run the command as root, or add the user to {key} in the section [daemon] of vfmigrate.conf"
        if key
        else "run the command as root",
    )


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end, from the kernel (unix(7), SO_PEERCRED)."""
    _pid, uid, _gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def read_line(stream: BinaryIO, limit: int = MAX_LINE_BYTES) -> bytes:
    """The next line of a connection, empty at its end. Raises InputError when it is too long or cut off."""
    line = stream.readline(limit + 1)
    if line and not line.endswith(b"\n"):
        raise InputError("the request is cut off or too long")
    return line


def ask(
    name: str, arguments: Mapping[str, Any], *, path: Path = SOCKET, timeout: float = 60.0
) -> Mapping[str, Any]:
    """Send one request to the daemon and wait at most `timeout` seconds for its result.

    Raises the error in the answer, Unreachable without an answer, HostError if the connection is denied.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(encode_request(name, arguments))
            with connection.makefile("rb") as stream:
                answer = decode_answer(stream.readline())
    except PermissionError as error:
        raise failed(f"connect to vfmigrated at {path}", error) from None
    except OSError as error:
        raise Unreachable(
            f"vfmigrated does not answer at {path}: {error}", "run: systemctl start vfmigrated"
        ) from None
    return result_of(answer, str(path))


def decode_answer(line: bytes) -> dict[str, Any]:
    """Read an answer's line for `result_of`; empty when it is not an answer."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def result_of(answer: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The result in an answer that was read from `where`.

    Raises the error in the answer, or Unreachable when it is not an answer of vfmigrated.
    """
    if isinstance(answer.get("result"), dict):
        return dict(answer["result"])
    if isinstance(answer.get("error"), dict):
        raise failure(answer["error"])
    raise Unreachable(f"the program that answers at {where} is not vfmigrated")
