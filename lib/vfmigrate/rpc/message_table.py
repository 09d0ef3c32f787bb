# SPDX-License-Identifier: GPL-2.0-or-later
"""Which requests and answers may be in the metadata of each network: how many, how large, for how long.

Pure bookkeeping for the daemon's side (remote_server.py); not thread-safe. libvirt sends the XML of a network, with all
its metadata, as one text of at most 4 MiB (VIR_NET_MESSAGE_STRING_MAX in its src/rpc/virnetprotocol.x): with more in
it, nobody can read the network's XML any more. So what is too much is refused, and the caller removes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from vfmigrate.rpc import network_message

#: requests in one network at a time, and their bytes
MAX_REQUESTS = 64
MAX_REQUESTS_BYTES = 262144
#: the bytes of all answers in one network
MAX_ANSWERS_BYTES = 2097152
#: seconds after which an answer is removed; a client that is alive fetches it within a second, and removes it
ANSWER_SECONDS = 15.0

# libvirt writes an element with another prefix, and its characters escaped in its own way.
_MARGIN = 1024

#: verdicts of `MessageTable.see`
NEW, KNOWN, EXCESS = "new", "known", "excess"

#: a network and a namespace in its metadata
Place = tuple[str, str]


@dataclass
class _Message:
    size: int
    #: when it is removed, in seconds of the caller's clock
    until: float


class MessageTable:
    """The requests and answers that are allowed to be there. A request is removed after `request_seconds`."""

    def __init__(self, request_seconds: float = 60.0) -> None:
        self._request_seconds = request_seconds
        self._requests: dict[Place, _Message] = {}
        self._answers: dict[Place, _Message] = {}

    def see(self, network: str, uri: str, size: int, now: float) -> str:
        """The verdict on an element of `size` bytes that was found.

        NEW: a request, which is now known and is to be answered. EXCESS: to be removed. KNOWN: anything else; an answer
        only if this daemon wrote it (`admit_answer`), and in about that size.
        """
        place = (network, uri)
        if place in self._answers:
            if size <= 2 * self._answers[place].size + _MARGIN:
                return KNOWN
            self.forget(network, uri)
            return EXCESS
        if network_message.request_id(uri) is None or size > network_message.MAX_ELEMENT_BYTES:
            self.forget(network, uri)
            return EXCESS
        others = [
            each.size for there, each in self._requests.items() if there[0] == network and there != place
        ]
        if len(others) >= MAX_REQUESTS or sum(others) + size > MAX_REQUESTS_BYTES:
            self.forget(network, uri)
            return EXCESS
        if place in self._requests:
            self._requests[place].size = size
            return KNOWN
        self._requests[place] = _Message(size, now + self._request_seconds)
        return NEW

    def admit_answer(self, network: str, uri: str, size: int, now: float) -> bool:
        """Whether an answer may be written; then it is known, and must be written or forgotten."""
        others = sum(each.size for there, each in self._answers.items() if there[0] == network)
        if others + size > MAX_ANSWERS_BYTES:
            return False
        self._answers[(network, uri)] = _Message(size, now + ANSWER_SECONDS)
        return True

    def knows(self, network: str, uri: str) -> bool:
        """Whether an element is one of those that may be there."""
        return (network, uri) in self._requests or (network, uri) in self._answers

    def forget(self, network: str, uri: str) -> None:
        """An element is not there any more."""
        self._requests.pop((network, uri), None)
        self._answers.pop((network, uri), None)

    def expired(self, now: float) -> Iterator[Place]:
        """What has been there for too long."""
        for messages in (self._requests, self._answers):
            yield from [place for place, message in messages.items() if message.until <= now]

    def __bool__(self) -> bool:
        """Whether there is anything that will expire."""
        return bool(self._requests or self._answers)
