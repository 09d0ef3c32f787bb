# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's end of the letters that come through libvirt (letter.py): answers them, and sweeps what is left over.

Whoever can write there has libvirt's read-write access to this host, which is as good as root's; even so, what comes is
held to its form and size, to the requests of `protocol.REMOTE`, and to a few at a time. All of it happens in threads of
its own, since it calls libvirt; the event thread only drops off what it has noticed.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Callable, Optional

from vfmigrate import journal
from vfmigrate.errors import Denied, VfmigrateError
from vfmigrate.journal import Journal
from vfmigrate.rpc import network_metadata, protocol
from vfmigrate.rpc.protocol import Request

if TYPE_CHECKING:
    from vfmigrate.virt.mailbox import Mailbox  # imports libvirt-python, which pure tests do without

_AT_ONCE = 4
_MOST_WAITING = 64
_MOST_REMEMBERED = 1024
# How long a client may leave its letters lying, in seconds; one that lives takes them at once.
_KEPT = 60.0


class Postman:
    """Answers letters. `answer` answers a request; it raises VfmigrateError and nothing else."""

    def __init__(
        self,
        mailbox: Mailbox,
        answer: Callable[[Request], dict[str, Any]],
        log: Journal,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mailbox = mailbox
        self._answer = answer
        self._log = log
        self._clock = clock
        self._waiting: queue.Queue[Optional[tuple[str, str]]] = queue.Queue(_MOST_WAITING)
        self._lock = threading.Lock()
        #: questions taken in hand, with the time of the answer (None: not yet)
        self._known: OrderedDict[str, Optional[float]] = OrderedDict()

    def start(self) -> None:
        """Begin to answer, in threads of our own."""
        for number in range(_AT_ONCE):
            threading.Thread(target=self._run, name=f"postman-{number}", daemon=True).start()

    def stop(self) -> None:
        """Begin no more answers."""
        for _ in range(_AT_ONCE):
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return  # the threads end with the process

    def notice(self, network: str, uri: str) -> None:
        """Something about the metadata `uri` of a network has changed. Returns at once."""
        name = network_metadata.ask_id(uri)
        if name is None:
            return
        with self._lock:
            if name in self._known:
                return  # our client takes it away
            try:
                self._waiting.put_nowait((network, name))
            except queue.Full:
                return  # the next sweep takes it away, and its client asks again
            self._known[name] = None
            while len(self._known) > _MOST_REMEMBERED:
                self._known.popitem(last=False)

    def _run(self) -> None:
        while True:
            work = self._waiting.get()
            if work is None:
                return
            try:
                self.deliver(*work)
            except VfmigrateError as error:
                self._log.event("letter-failed", str(error), level=journal.WARNING)
            except Exception as error:  # noqa: BLE001 - told; the next letter must still be answered
                self._log.bug(error)

    def deliver(self, network: str, name: str) -> None:
        """Answer one question, unless nobody asks it any more."""
        try:
            element = self._mailbox.read(network, network_metadata.ASK + name)
            if element is None:
                return
            answer = self._reply(element)
            if self._mailbox.read(network, network_metadata.ASK + name) is not None:
                self._mailbox.write(network, network_metadata.ANSWER + name, answer)
        finally:
            with self._lock:
                self._known[name] = self._clock()

    def _reply(self, element: str) -> str:
        try:
            request = protocol.decode_request(
                network_metadata.unwrap(element, network_metadata.MAX_ASK_BYTES)
            )
            if request.name not in protocol.REMOTE:
                raise Denied(
                    f"vfmigrated answers no '{request.name}' from another host", "ask on the host itself"
                )
            return network_metadata.wrap(
                protocol.encode_result(self._answer(request)), network_metadata.MAX_ANSWER_BYTES
            )
        except VfmigrateError as error:
            return network_metadata.wrap(protocol.encode_error(error), network_metadata.MAX_ANSWER_BYTES)

    def sweep(self) -> None:
        """Take away what lies there and is nobody's: its client died, or it came while no daemon ran.

        A client that waits for an answer sees its question gone, and asks again.
        """
        try:
            for network in self._mailbox.networks():
                for uri in self._mailbox.uris(network):
                    if self._is_stale(network_metadata.letter_id(uri)):
                        self._mailbox.erase(network, uri)
        except VfmigrateError as error:
            self._log.event("letter-failed", str(error), level=journal.WARNING)

    def _is_stale(self, name: Optional[str]) -> bool:
        with self._lock:
            if name is None or name not in self._known:
                return True
            answered = self._known[name]
            return answered is not None and answered < self._clock() - _KEPT
