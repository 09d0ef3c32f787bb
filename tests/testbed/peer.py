# SPDX-License-Identifier: GPL-2.0-or-later
"""The peer: it pings a guest every 50 ms, and computes from the answers how long the guest was silent.

As a program (`python -m tests.testbed.peer ADDRESS FILE`) it pings until it is terminated, and writes a
line for each request and each answer, with the wall clock's time in nanoseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from tests.patience import PATIENCE
from tests.testbed import report
from tests.testbed.namespace import RUN

# Each costs a guest that is emulated twice some milliseconds of its processor.
INTERVAL_NS = 50_000_000
# How long an answer may be late without counting as lost.
PATIENCE_S = 3
PATIENCE_NS = PATIENCE_S * 1_000_000_000

# include/uapi/asm-generic/socket.h; the socket module does not name it
SO_TIMESTAMPNS = 35

ECHO_REQUEST = 8
ECHO_REPLY = 0


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(identifier: int, sequence: int) -> bytes:
    """An ICMP echo request (RFC 792)."""
    data = b"vfmigrate test bed peer."
    header = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, identifier, sequence & 0xFFFF)
    return (
        struct.pack("!BBHHH", ECHO_REQUEST, 0, checksum(header + data), identifier, sequence & 0xFFFF) + data
    )


def ping(address: str, output: Path) -> None:
    """Ping until SIGTERM, then wait for answers that may still come. Needs the right to raw sockets."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    identifier = os.getpid() & 0xFFFF
    channel = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    channel.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sequence = 0
    due = time.time_ns()
    awaited: dict[int, int] = {}
    with output.open("w") as file:
        while not stopping or any(sent > time.time_ns() - PATIENCE_NS for sent in awaited.values()):
            now = time.time_ns()
            if not stopping and now >= due:
                with contextlib.suppress(OSError):
                    # it cannot be reached for now: the request counts as lost
                    channel.sendto(echo_request(identifier, sequence), (address, 0))
                file.write(f"sent {sequence} {now}\n")
                awaited[sequence & 0xFFFF] = now
                sequence += 1
                due = max(due + INTERVAL_NS, now)
            wait = 0.02 if stopping else (due - time.time_ns()) / 1e9
            if select.select([channel], [], [], max(wait, 0))[0]:
                answer = receive(channel, identifier)
                if answer is not None:
                    awaited.pop(answer[0], None)
                    file.write(f"heard {answer[0]} {answer[1]}\n")
            file.flush()


def receive(channel: socket.socket, identifier: int) -> Optional[tuple[int, int]]:
    """The sequence number of an answer to us and the time the kernel got it, in ns; None for other packets."""
    packet, control, _flags, _sender = channel.recvmsg(2048, 256)
    header_length = (packet[0] & 0x0F) * 4
    kind, _code, _sum, found, sequence = struct.unpack_from("!BBHHH", packet, header_length)
    if kind != ECHO_REPLY or found != identifier:
        return None
    for level, option, data in control:
        if level == socket.SOL_SOCKET and option == SO_TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("qq", data[:16])
            return sequence, seconds * 1_000_000_000 + nanoseconds
    return sequence, time.time_ns()


@dataclass(frozen=True)
class Hearing:
    """What the peer heard of a guest.

    `longest_silence_ms` is the longest time in which everything the peer asked stayed without an answer for
    good: the network led nowhere, or the guest did not run. `longest_wait_ms` is the longest time between
    two answers; it holds the silence, and how long the guest, emulated twice and with cold caches after a
    migration, takes to answer what reached it.
    """

    sent: int
    lost: int
    longest_silence_ms: float
    longest_wait_ms: float
    silence_began: float
    """When the silence began, in seconds of the wall clock."""


def hear(record: str) -> Hearing:
    """What was heard by a record, from the first answer on: the guest was not up before it."""
    sent: dict[int, int] = {}
    heard: dict[int, int] = {}
    for line in record.splitlines():
        word, number, when = line.split()
        # a number on the wire has 16 bits; a record never holds as many
        (sent if word == "sent" else heard).setdefault(int(number), int(when))
    if not heard:
        return Hearing(len(sent), len(sent), 0.0, 0.0, 0.0)
    begin, end = min(heard.values()), max(sent.values())
    counted = {number: when for number, when in sent.items() if when >= begin}
    silence, began = longest_silence(counted, heard.keys())
    answers = sorted([begin, *(when for when in heard.values() if when <= end), max(begin, end)])
    wait = max(after - before for before, after in zip(answers, answers[1:]))
    return Hearing(len(counted), len(counted.keys() - heard.keys()), silence / 1e6, wait / 1e6, began / 1e9)


def longest_silence(sent: Mapping[int, int], heard: Collection[int]) -> tuple[int, int]:
    """The longest stretch of requests without an answer, and when it began.

    It lasts from the first request that got none to the next that got one, or to the last request.
    """
    longest, longest_began = 0, 0
    began: Optional[int] = None
    for number, when in sorted(sent.items()):
        if number not in heard and began is None:
            began = when
        if began is not None and when - began > longest:
            longest, longest_began = when - began, began
        if number in heard:
            began = None
    return longest, longest_began


class Peer:
    """A peer that is pinging one guest's address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.output = RUN / f"peer-{time.monotonic_ns()}"
        self.output.touch()
        clone = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.testbed.peer", address, self.output],
            cwd=clone,
            start_new_session=True,
        )

    def answers(self) -> int:
        """How many answers came so far."""
        return self.output.read_text().count("heard ")

    def await_answers(self, more: int, timeout: float) -> bool:
        """Wait until `more` further answers came; False when they do not within `timeout * PATIENCE` seconds."""
        wanted = self.answers() + more
        deadline = time.monotonic() + timeout * PATIENCE
        while self.answers() < wanted:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def stop(self) -> Hearing:
        """Stop pinging, and say what was heard."""
        self.process.terminate()
        try:
            self.process.wait(timeout=PATIENCE_S + 10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        text = self.output.read_text()
        kept = report.BUILD / "peers"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / self.address).write_text(text)
        return hear(text)


if __name__ == "__main__":
    ping(sys.argv[1], Path(sys.argv[2]))
