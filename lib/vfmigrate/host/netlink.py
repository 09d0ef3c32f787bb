# SPDX-License-Identifier: GPL-2.0-or-later
"""A netlink socket: one request, its answers, and the kernel's message when it refuses.

The messages are pyroute2's, of any version since 0.7; the socket is not. pyroute2's own keeps, from 0.9 on, one
socket and one event loop for every thread that ever called it, which is a leak in a daemon that answers from
short-lived threads; and no version shows the extended-ack text of a dump that fails half-way.

The kernel works on a request inside the send() that brings it, and waits there for its own locks with no limit that a
socket could set. So each socket has a thread that sends, and a caller that waits for it no longer than its time-out.

Wire format: include/uapi/linux/netlink.h and netlink(7).
"""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from vfmigrate import deadline, locks
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError
from vfmigrate.os_errors import failed

NETLINK_ROUTE = 0
NETLINK_GENERIC = 16

_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11

_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP = 0x300
_NLM_F_DUMP_INTR = 0x10
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLMSGERR_ATTR_MSG = 1

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_NLA_TYPE_MASK = 0x3FFF
_ERRNO = struct.Struct("=i")

#: Twice what the kernel puts into one datagram of a dump (net/netlink/af_netlink.c).
_LARGEST_DATAGRAM = 1 << 16

#: Times a dump is asked for again because what it showed changed meanwhile.
_DUMP_ATTEMPTS = 10
#: what to do about a kernel that does not answer
REMEDY = "see dmesg for what its driver is doing"
_DOOR = Door("the kernel (netlink)", REMEDY)


class KernelRefusalError(Exception):
    """The kernel answered with an error: its errno, and its extended-ack text, else the errno's."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, text)
        self.number = number
        self.text = text


@dataclass
class Exchange:
    """One request to the kernel, and what came of it once `done` is set. Times are of time.monotonic()."""

    data: bytes
    kind: int
    flags: int
    deadline: float
    timeout: float
    #: a list that changed while it was read is of no use
    consistent: bool = True
    done: threading.Event = field(default_factory=threading.Event)
    answers: list[bytes] = field(default_factory=list)
    error: Optional[Exception] = None

    def result(self) -> list[bytes]:
        """Wait for the kernel's answers, undecoded, headers included.

        Raises KernelRefusalError when the kernel refuses, HostError when it does not answer in time.
        """
        if not self.done.wait(max(self.deadline - time.monotonic(), 0.0)):
            raise _silence(self.timeout)
        if self.error is not None:
            raise self.error
        return self.answers


class NetlinkSocket:
    """A netlink socket of one protocol, in the network namespace of the thread that makes it.

    Thread-safe: one request at a time. `timeout` is in seconds and bounds a whole answer, with the wait for requests of
    other threads before it. A request whose time is over before its turn is not sent. `sock` hands in a connected
    socket that carries netlink messages instead.
    """

    def __init__(
        self, protocol: int, *, timeout: float = 120.0, sock: Optional[socket.socket] = None
    ) -> None:
        self._timeout = timeout
        self._sequence = 0
        self._socket = sock if sock is not None else _open(protocol)
        self._requests: queue.SimpleQueue[Optional[Exchange]] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        threading.Thread(target=self._serve, name="netlink", daemon=True).start()

    def ask(
        self, message: Any, message_type: int, *, dump: bool = False, consistent: bool = True
    ) -> list[bytes]:
        """Send a pyroute2 message and wait for the answers to it. Returns and raises as `Exchange.result()`."""
        with deadline.waiting(_DOOR, self._timeout):
            return self.send(message, message_type, dump=dump, consistent=consistent).result()

    def send(
        self, message: Any, message_type: int, *, dump: bool = False, consistent: bool = True
    ) -> Exchange:
        """Send a pyroute2 message, and do not wait for the answers. Raises HostError after `close()`.

        A dump that changed while it was read is read again; unless `consistent`, it is good enough. The answers are
        waited for no longer than the work of this thread may take.
        """
        locks.may_take_long("sends a netlink request")
        flags = _NLM_F_REQUEST | _NLM_F_ACK | (_NLM_F_DUMP if dump else 0)
        message.encode()
        seconds = min(self._timeout, deadline.left())
        end = time.monotonic() + seconds
        request = Exchange(bytes(message.data), message_type, flags, end, seconds, consistent)
        with self._closing:
            if self._closed:
                raise HostError("the netlink socket was closed")
            self._requests.put(request)
        return request

    def close(self) -> None:
        """Close the socket when the requests sent so far are answered; does not wait for that."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._requests.put(None)

    def _serve(self) -> None:
        """Send the requests one after the other. Runs in a thread of its own."""
        while True:
            request = self._requests.get()
            if request is None:
                self._socket.close()
                return
            try:
                request.answers = self._exchange(request)
            except Exception as error:  # noqa: BLE001 - whatever it is, the caller waits for it
                request.error = error
            request.done.set()

    def _exchange(self, request: Exchange) -> list[bytes]:
        data = bytearray(request.data)
        for _ in range(_DUMP_ATTEMPTS):
            self._sequence = self._sequence + 1 & 0xFFFFFFFF
            _HEADER.pack_into(data, 0, len(data), request.kind, request.flags, self._sequence, 0)
            self._send(data, request)
            answers, torn = self._answers(request)
            if not (torn and request.consistent):
                return answers
        raise HostError(
            f"the kernel's list changed during each of {_DUMP_ATTEMPTS} attempts to read it", "try again"
        )

    def _answers(self, request: Exchange) -> tuple[list[bytes], bool]:
        """Collect the answers to the last request, and whether a dump was inconsistent."""
        answers: list[bytes] = []
        torn = False
        for message in self._messages(request):
            _, kind, flags, _, _ = _HEADER.unpack_from(message)
            torn = torn or bool(flags & _NLM_F_DUMP_INTR)
            if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                _raise_refusal(message, kind, flags)
                return answers, torn
            answers.append(message)
        raise AssertionError  # _messages() ends by an exception only

    def _messages(self, request: Exchange) -> Iterator[bytes]:
        while True:
            for message in _split(self._receive(request)):
                # An answer that came after its time-out belongs to nobody.
                if _HEADER.unpack_from(message)[3] == self._sequence:
                    yield message

    def _send(self, data: bytearray, request: Exchange) -> None:
        try:
            self._socket.settimeout(_remaining(request))
            self._socket.sendall(data)
        except socket.timeout:
            raise _silence(request.timeout) from None
        except OSError as error:
            raise failed("send a netlink request", error, remedy=REMEDY) from None

    def _receive(self, request: Exchange) -> bytes:
        try:
            self._socket.settimeout(_remaining(request))
            data = self._socket.recv(_LARGEST_DATAGRAM)
        except socket.timeout:
            raise _silence(request.timeout) from None
        except OSError as error:
            raise failed("receive a netlink answer", error, remedy=REMEDY) from None
        if not data:
            raise HostError("the netlink socket was closed")
        return data


def _remaining(request: Exchange) -> float:
    """How many seconds a request has left. Raises HostError for none."""
    remaining = request.deadline - time.monotonic()
    if remaining <= 0:
        raise _silence(request.timeout)
    return remaining


def _silence(timeout: float) -> HostError:
    return HostError(
        f"the kernel did not answer a netlink request within {timeout:.3g} seconds",
        REMEDY,
    )


def _open(protocol: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        sock.bind((0, 0))
    except OSError as error:
        raise failed("open a netlink socket", error, remedy=REMEDY) from None
    return sock


def _split(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length = _HEADER.unpack_from(data, offset)[0]
        if length < _HEADER.size:
            return
        yield data[offset : offset + length]
        offset += length + 3 & ~3


def _raise_refusal(message: bytes, kind: int, flags: int) -> None:
    """Raise what an NLMSG_ERROR or NLMSG_DONE says; returns when it says that all went well."""
    payload = message[_HEADER.size :]
    code = -_ERRNO.unpack_from(payload)[0] if len(payload) >= _ERRNO.size else 0
    if code <= 0:
        return
    offset = _ERRNO.size
    if kind == _NLMSG_ERROR:  # the refused request follows, whole or only its header
        offset += _HEADER.size if flags & _NLM_F_CAPPED else _HEADER.unpack_from(payload, offset)[0] + 3 & ~3
    text = _extended_ack(payload[offset:]) if flags & _NLM_F_ACK_TLVS else ""
    raise KernelRefusalError(code, text or os.strerror(code))


def _extended_ack(data: bytes) -> str:
    text = attribute_map(data).get(_NLMSGERR_ATTR_MSG, b"")
    return text.rstrip(b"\0").decode(errors="replace")


def attribute_map(data: bytes) -> dict[int, bytes]:
    """The attributes in a payload by number, as `split_attributes()`; of several of one number the last.

    The same loop once more: the messages about thousands of links have fifty attributes each.
    """
    found = {}
    offset, end, unpack = 0, len(data), _ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        found[kind & _NLA_TYPE_MASK] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def split_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in a payload, each with its number and content; what follows a malformed one is left out.

    pyroute2 decodes whole messages, which takes ten times as long: too much for each of thousands of ports and links.
    """
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += length + 3 & ~3
