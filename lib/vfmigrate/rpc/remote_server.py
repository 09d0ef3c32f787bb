# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's side of requests from other hosts (network_message.py): answers them, and removes stale ones.

Whoever can write there has read-write access to libvirt on this host, which is equivalent to root. Even so, requests
are limited in form, size and number, and to those in `protocol.REMOTE`. They are answered in threads of their own,
since that calls libvirt; the event thread only queues them.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate import journal
from vfmigrate.errors import Denied, VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.rpc import network_message, protocol
from vfmigrate.rpc.protocol import Request

if TYPE_CHECKING:
    from vfmigrate.virt.network_metadata import (
        NetworkMetadata,  # imports libvirt-python, which pure tests do without
    )

_AT_ONCE = 4
_MOST_WAITING = 64
_MOST_REMEMBERED = 1024
# Seconds after which an answer is stale; a client that is alive removes it at once.
_KEPT = 60.0


class RemoteServer:
    """Answers requests from other hosts. `answer` answers one, and raises nothing but VfmigrateError."""

    def __init__(
        self,
        metadata: NetworkMetadata,
        answer: Callable[[Request], dict[str, Any]],
        log: Journal,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metadata = metadata
        self._answer = answer
        self._log = log
        self._clock = clock
        self._waiting: queue.Queue[Optional[tuple[str, str]]] = queue.Queue(_MOST_WAITING)
        self._lock = threading.Lock()
        #: requests that were queued, with the time of the answer (None: not yet answered)
        self._known: OrderedDict[str, Optional[float]] = OrderedDict()

    def start(self) -> None:
        """Start the threads that answer."""
        for number in range(_AT_ONCE):
            threading.Thread(target=self._run, name=f"remote-{number}", daemon=True).start()

    def stop(self) -> None:
        """Answer no more requests; those that are being answered are finished."""
        for _ in range(_AT_ONCE):
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return  # the threads end with the process

    def enqueue(self, network: str, uri: str) -> None:
        """Queue a request, when `uri` is that of one: the metadata of a network has changed there. Returns at once."""
        name = network_message.request_id(uri)
        if name is None:
            return
        with self._lock:
            if name in self._known:
                return  # its client removes it
            try:
                self._waiting.put_nowait((network, name))
            except queue.Full:
                return  # `remove_stale` removes it, and its client sends another
            self._known[name] = None
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)

    def _run(self) -> None:
        while True:
            work = self._waiting.get()
            if work is None:
                return
            self._log.attempt("remote-request-failed", functools.partial(self.process, *work))

    def process(self, network: str, name: str) -> None:
        """Answer one request, unless its client has removed it."""
        try:
            element = self._metadata.read(network, network_message.REQUEST + name)
            if element is None:
                return
            answer = self._reply(element)
            if self._metadata.read(network, network_message.REQUEST + name) is not None:
                self._metadata.write(network, network_message.ANSWER + name, answer)
        finally:
            with self._lock:
                self._known[name] = self._clock()

    def _reply(self, element: str) -> str:
        try:
            request = protocol.decode_request(
                network_message.unwrap(element, network_message.MAX_REQUEST_BYTES)
            )
            if request.name not in protocol.REMOTE:
                raise Denied(
                    f"vfmigrated does not answer '{request.name}' to other hosts",
                    "run the command on the host itself",
                )
            return network_message.wrap(
                protocol.encode_result(self._answer(request)), network_message.MAX_ANSWER_BYTES
            )
        except VfmigrateError as error:
            return network_message.wrap(protocol.encode_error(error), network_message.MAX_ANSWER_BYTES)

    def remove_stale(self) -> None:
        """Remove requests and answers whose client died, and those that came while no daemon ran.

        A client that waits for an answer sees that its request is gone, and sends another.
        """
        try:
            for network in self._metadata.networks():
                for uri in self._metadata.uris(network):
                    if self._is_stale(network_message.message_id(uri)):
                        self._metadata.erase(network, uri)
        except VfmigrateError as error:
            self._log.event("remote-request-failed", str(error), level=journal.WARNING)

    def _is_stale(self, name: Optional[str]) -> bool:
        with self._lock:
            if name is None or name not in self._known:
                return True
            answered = self._known[name]
            return answered is not None and answered < self._clock() - _KEPT
