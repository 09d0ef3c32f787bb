# SPDX-License-Identifier: GPL-2.0-or-later
"""A netlink request and its answers, with the kernel's end in the test's hand."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Callable

import pytest
from pyroute2.netlink import genlmsg

from vfmigrate.errors import HostError
from vfmigrate.host.netlink import NETLINK_GENERIC, KernelRefusalError, NetlinkSocket
from vfmigrate.polling import poll

HEADER = struct.Struct("=IHHII")
ERROR, DONE = 2, 3
MULTI, DUMP_INTR, CAPPED, ACK_TLVS = 0x2, 0x10, 0x100, 0x200
FAMILY = 0x20

Answers = Callable[[int], list[bytes]]


def message(sequence: int, kind: int, content: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(content), kind, flags, sequence, 0) + content


def acknowledged(sequence: int) -> bytes:
    return message(sequence, ERROR, struct.pack("=i", 0) + bytes(HEADER.size), CAPPED)


def done(sequence: int, flags: int = MULTI) -> bytes:
    return message(sequence, DONE, struct.pack("=i", 0), flags)


def text_attribute(text: str) -> bytes:
    content = text.encode() + b"\0"
    return struct.pack("=HH", 4 + len(content), 1) + content + bytes(-len(content) % 4)


class Kernel:
    """Answers each request by the next of `scripts`, given the request's sequence number."""

    def __init__(self, *scripts: Answers) -> None:
        self.requests: list[bytes] = []
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._thread = threading.Thread(target=self._answer, args=(scripts,))
        self._thread.start()

    def _answer(self, scripts: tuple[Answers, ...]) -> None:
        for script in scripts:
            request = self._socket.recv(1 << 16)
            if not request:
                return
            self.requests.append(request)
            for packet in script(HEADER.unpack_from(request)[3]):
                self._socket.send(packet)

    def close(self) -> None:
        self.theirs.close()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def ask() -> Iterator[Callable[..., list[bytes]]]:
    """Ask the same over a new socket, dump or not, of a kernel that answers by scripts."""
    kernels: list[Kernel] = []

    def ask(
        *scripts: Answers, dump: bool = False, consistent: bool = True, times: int = 1, timeout: float = 20
    ) -> list[bytes]:
        kernel = Kernel(*scripts)
        kernels.append(kernel)
        netlink = NetlinkSocket(NETLINK_GENERIC, timeout=timeout, sock=kernel.theirs)
        for _ in range(times - 1):
            with pytest.raises(HostError):
                netlink.ask(genlmsg(), FAMILY, dump=dump)
        return netlink.ask(genlmsg(), FAMILY, dump=dump, consistent=consistent)

    yield ask
    for kernel in kernels:
        kernel.close()


Ask = Callable[..., list[bytes]]


def test_an_answer_is_returned_without_its_acknowledgement(ask: Ask) -> None:
    assert ask(lambda number: [message(number, FAMILY, b"said"), acknowledged(number)])[0][16:] == b"said"


def test_several_messages_in_one_datagram_are_read(ask: Ask) -> None:
    answers = ask(
        lambda number: [
            message(number, FAMILY, b"one1", MULTI) + message(number, FAMILY, b"two2", MULTI),
            message(number, FAMILY, b"333", MULTI) + b"\0" + done(number),
        ],
        dump=True,
    )
    assert [answer[16:] for answer in answers] == [b"one1", b"two2", b"333"]


@pytest.mark.parametrize("capped", [True, False])
def test_a_refusal_has_the_kernels_text(ask: Ask, capped: bool) -> None:
    def refuse(number: int) -> list[bytes]:
        echo = message(number, FAMILY, b"" if capped else b"the whole request, odd")
        if capped:
            echo = HEADER.pack(99, FAMILY, 0, number, 0)
        content = struct.pack("=i", -errno.EBUSY) + echo + bytes(-len(echo) % 4) + text_attribute("too busy")
        return [message(number, ERROR, content, ACK_TLVS | (CAPPED if capped else 0))]

    with pytest.raises(KernelRefusalError) as caught:
        ask(refuse)
    assert (caught.value.number, caught.value.text) == (errno.EBUSY, "too busy")


def test_a_refusal_without_text_has_the_name_of_its_error(ask: Ask) -> None:
    content = struct.pack("=i", -errno.EPERM) + bytes(HEADER.size)
    with pytest.raises(KernelRefusalError) as caught:
        ask(lambda number: [message(number, ERROR, content, CAPPED)])
    assert (caught.value.number, caught.value.text) == (errno.EPERM, "Operation not permitted")


def test_a_dump_that_fails_half_way_is_an_error(ask: Ask) -> None:
    content = struct.pack("=i", -errno.ENODEV) + text_attribute("it left")
    with pytest.raises(KernelRefusalError, match="it left"):
        ask(
            lambda number: [
                message(number, FAMILY, b"half", MULTI),
                message(number, DONE, content, MULTI | ACK_TLVS),
            ],
            dump=True,
        )


def test_an_inconsistent_dump_is_repeated(ask: Ask) -> None:
    answers = ask(
        lambda number: [message(number, FAMILY, b"torn", MULTI), done(number, MULTI | DUMP_INTR)],
        lambda number: [message(number, FAMILY, b"good", MULTI), done(number)],
        dump=True,
    )
    assert [answer[16:] for answer in answers] == [b"good"]


def test_an_inconsistent_dump_is_good_enough_where_that_is_said(ask: Ask) -> None:
    answers = ask(
        lambda number: [message(number, FAMILY, b"torn", MULTI), done(number, MULTI | DUMP_INTR)],
        dump=True,
        consistent=False,
    )
    assert [answer[16:] for answer in answers] == [b"torn"]


def test_a_dump_that_is_never_consistent_is_an_error(ask: Ask) -> None:
    with pytest.raises(HostError, match="changed during each of 10 attempts"):
        ask(*[lambda number: [done(number, MULTI | DUMP_INTR)]] * 10, dump=True)


def test_a_kernel_that_does_not_answer_is_an_error(ask: Ask) -> None:
    with pytest.raises(HostError, match=r"did not answer a netlink request within 0.05 seconds; see dmesg"):
        ask(lambda _: [], timeout=0.05)


def test_a_late_answer_is_ignored(ask: Ask) -> None:
    late: list[bytes] = []

    def answer_next_time(number: int) -> list[bytes]:
        late.extend([message(number, FAMILY, b"late"), acknowledged(number)])
        return []

    answers = ask(
        answer_next_time,
        lambda number: [*late, message(number, FAMILY, b"mine"), acknowledged(number)],
        times=2,
        timeout=0.2,
    )
    assert [answer[16:] for answer in answers] == [b"mine"]


def test_a_closed_connection_is_an_error() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    netlink = NetlinkSocket(NETLINK_GENERIC, sock=theirs)
    with pytest.raises(HostError, match=r"cannot send a netlink request: .*Broken pipe"):
        netlink.ask(genlmsg(), FAMILY)
    netlink.close()


class BusyKernel(socket.socket):
    """The socket of a kernel that works on a request inside send(), and does so for long: no time-out ends that."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.finished = threading.Event()
        self.sent = 0

    def sendall(self, _data: object, _flags: int = 0) -> None:
        self.sent += 1
        self.finished.wait(20)
        raise OSError(errno.ENODEV, "gone")


def test_a_send_that_blocks_times_out() -> None:
    kernel = BusyKernel()
    netlink = NetlinkSocket(NETLINK_GENERIC, timeout=0.1, sock=kernel)
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(HostError, match=r"did not answer a netlink request within 0\.1 seconds"):
            netlink.ask(genlmsg(), FAMILY)
        assert time.monotonic() - begun < 5
    kernel.finished.set()
    netlink.close()
    assert poll(lambda: kernel.fileno() == -1 or None, 10, 0.01)
    assert kernel.sent == 1  # the second request was over before its turn


def test_a_closed_socket_takes_no_request() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    netlink = NetlinkSocket(NETLINK_GENERIC, sock=theirs)
    netlink.close()
    netlink.close()
    with pytest.raises(HostError, match="the netlink socket was closed"):
        netlink.ask(genlmsg(), FAMILY)
    assert ours.recv(1) == b""
    ours.close()
