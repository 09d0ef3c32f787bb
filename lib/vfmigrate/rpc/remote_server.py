# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's side of requests from other hosts (network_message.py): answers them, and removes what is too much.

Whoever can write the metadata of one network sends requests about the pool of that network, and about no other. They
are limited in form, size and number (message_table.py), and to those in `protocol.REMOTE`. What exceeds this is removed
as soon as libvirt reports it, as are requests when they are answered and answers that nobody fetches: while they are
there, every user of this host can read them. All this calls libvirt, and is done in threads of its own.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate.errors import Denied, Refused, VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.rpc import network_message, protocol
from vfmigrate.rpc.message_table import EXCESS, NEW, MessageTable, Place
from vfmigrate.rpc.protocol import Request

if TYPE_CHECKING:
    from vfmigrate.virt.network_metadata import (
        NetworkMetadata,  # imports libvirt-python, which pure tests do without
    )

_AT_ONCE = 4
# Changes that libvirt has reported and nobody has looked at. Beyond this, a look at the whole network finds them.
_MOST_CHANGES = 4096
# How often to see whether something has expired, in seconds, while there is anything.
_LOOK_SECONDS = 1.0


class RemoteServer:
    """Answers requests from other hosts.

    `answer` answers one that came through a network, and raises nothing but VfmigrateError. A request that is not
    answered in `request_seconds` is removed.
    """

    def __init__(
        self,
        metadata: NetworkMetadata,
        answer: Callable[[str, Request], dict[str, Any]],
        log: Journal,
        *,
        request_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metadata = metadata
        self._answer = answer
        self._log = log
        self._clock = clock
        self._waiting: queue.Queue[Optional[tuple[str, str]]] = queue.Queue()
        self._lock = threading.Condition()
        # all below belong to the lock
        self._table = MessageTable(request_seconds)
        self._changed: OrderedDict[Place, None] = OrderedDict()
        #: answers whose own event has not come yet
        self._echoes: set[Place] = set()
        #: all networks are to be looked through
        self._sweep = False
        self._stopping = False

    def start(self) -> None:
        """Start the threads that answer, and the one that looks at what has changed."""
        for number in range(_AT_ONCE):
            threading.Thread(target=self._run, name=f"remote-{number}", daemon=True).start()
        threading.Thread(target=self._keep, name="remote-keeper", daemon=True).start()

    def stop(self) -> None:
        """Answer no more requests; those that are being answered are finished."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
        for _ in range(_AT_ONCE):
            self._waiting.put(None)

    def enqueue(self, network: str, uri: str) -> None:
        """Have the metadata of a network looked at, when `uri` is ours: libvirt says it changed. Returns at once."""
        place = (network, uri)
        if not network_message.is_ours(uri):
            return
        with self._lock:
            if place in self._echoes:
                self._echoes.discard(place)
            elif len(self._changed) < _MOST_CHANGES:
                self._changed[place] = None
            else:
                self._sweep = True
            self._lock.notify_all()

    def sweep_soon(self) -> None:
        """Have all networks looked through, in the thread of this server: libvirt takes long for many messages."""
        with self._lock:
            self._sweep = True
            self._lock.notify_all()

    # -- what is there

    def _keep(self) -> None:
        while True:
            with self._lock:
                while not (self._changed or self._sweep or self._stopping):
                    if not self._lock.wait(_LOOK_SECONDS if self._table else None):
                        break
                if self._stopping:
                    return
            self._log.attempt("remote-request-failed", self.look)

    def look(self) -> None:
        """Look at what libvirt has reported: queue new requests, remove what is too much or has expired."""
        while True:
            with self._lock:
                if not self._changed:
                    break
                (network, uri), _ = self._changed.popitem(last=False)
            self._log.attempt("remote-request-failed", functools.partial(self._inspect, network, uri))
        with self._lock:
            expired = list(self._table.expired(self._clock()))
            sweep, self._sweep = self._sweep, False
        for network, uri in expired:
            self._log.attempt("remote-request-failed", functools.partial(self._remove, network, uri))
        if sweep:
            self.remove_stale()

    def _inspect(self, network: str, uri: str) -> None:
        element = self._metadata.read(network, uri)
        with self._lock:
            if element is None:
                self._table.forget(network, uri)
                return
            verdict = self._table.see(network, uri, len(element.encode()), self._clock())
        name = network_message.request_id(uri)
        if verdict == NEW and name is not None:
            self._waiting.put((network, name))
        elif verdict == EXCESS:
            self._metadata.erase(network, uri)

    def _remove(self, network: str, uri: str) -> None:
        """Remove a request or an answer; it is known until libvirt has removed it, or its network is gone."""
        try:
            self._metadata.erase(network, uri)
        finally:
            with self._lock:
                self._table.forget(network, uri)
                self._echoes.discard((network, uri))

    def remove_stale(self) -> None:
        """Remove requests and answers that are not known: of earlier daemons, and that came while none ran.

        A client that waits for an answer sees that its request is gone, and sends another.
        """
        try:
            for network in self._metadata.networks():
                for uri in self._metadata.uris(network):
                    with self._lock:
                        known = self._table.knows(network, uri) or (network, uri) in self._changed
                    if not known:
                        self._metadata.erase(network, uri)
        except VfmigrateError as error:
            self._log.failed("remote-request-failed", error)

    # -- the answers

    def _run(self) -> None:
        while True:
            work = self._waiting.get()
            if work is None:
                return
            self._log.attempt("remote-request-failed", functools.partial(self.process, *work))

    def process(self, network: str, name: str) -> None:
        """Answer one request and remove it, unless its client has removed it."""
        request, answer = network_message.REQUEST + name, network_message.ANSWER + name
        try:
            element = self._metadata.read(network, request)
            if element is None:
                return
            reply = self._reply(network, element)
            if self._metadata.read(network, request) is not None:
                self._write(network, answer, reply)
        finally:
            with contextlib.suppress(VfmigrateError):  # the network has stopped, and all metadata with it
                self._remove(network, request)

    def _write(self, network: str, uri: str, element: str) -> None:
        place = (network, uri)
        with self._lock:
            if not self._table.admit_answer(network, uri, len(element.encode()), self._clock()):
                element = self._error(
                    Refused(
                        f"too many answers of vfmigrated wait in libvirt's network '{network}'",
                        "try again in a minute",
                    )
                )
                if not self._table.admit_answer(network, uri, len(element.encode()), self._clock()):
                    return
            self._echoes.add(place)
            self._lock.notify_all()  # it will expire
        try:
            self._metadata.write(network, uri, element)
        except VfmigrateError:
            with self._lock:
                self._table.forget(network, uri)
                self._echoes.discard(place)
            raise

    def _reply(self, network: str, element: str) -> str:
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
                protocol.encode_result(self._answer(network, request)), network_message.MAX_ANSWER_BYTES
            )
        except VfmigrateError as error:
            return self._error(error)

    @staticmethod
    def _error(error: VfmigrateError) -> str:
        return network_message.wrap(protocol.encode_error(error), network_message.MAX_ANSWER_BYTES)
