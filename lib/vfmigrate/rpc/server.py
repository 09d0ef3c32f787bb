# SPDX-License-Identifier: GPL-2.0-or-later
"""The server of the daemon's socket: connections in, answers out. The answers come from a function.

One thread for each connection, a bound on how many there are, and an orderly end: requests at hand are finished,
those still waiting in the socket are left to systemd, which keeps it open, and to the next daemon.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

from vfmigrate.errors import HostError, InputError, Refused, VfmigrateError
from vfmigrate.os_errors import failed
from vfmigrate.rpc import protocol

_LISTEN_FDS_START = 3  # sd_listen_fds(3)
_MAX_CONNECTIONS = 256
# Of all users but root together, and of each of them. Root's hooks find room beside any number of users, and a user
# beside another that keeps the daemon busy.
_MAX_OF_OTHERS = 128
_MAX_OF_A_USER = 32
# accept(2): the process or the machine is out of descriptors or memory; the next attempt would fail as well
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EXHAUSTED_SECONDS = 0.1
_IDLE_SECONDS = 120.0
# Longer than a hook's request takes, shorter than systemd's time-out (TimeoutStopSec).
_FINISH_SECONDS = 30.0
# how long a server that waits for room does not notice that it is to stop
_LOOK_AGAIN_SECONDS = 0.2

#: answers a request of a user; raises VfmigrateError
Answer = Callable[[protocol.Request, int], Mapping[str, Any]]


def listening_socket(path: Path) -> socket.socket:
    """The socket that systemd handed over (sd_listen_fds(3)), or one of our own at `path`.

    Raises HostError when there is more than one, or none can be made.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS"):
        if os.environ["LISTEN_FDS"] != "1":
            raise HostError("systemd handed over more than one socket", "see vfmigrated.socket")
        listener = socket.socket(fileno=_LISTEN_FDS_START)
        listener.set_inheritable(False)
        return listener
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o666)  # who may ask what is decided by SO_PEERCRED
        # as many as the kernel allows: a hook whose connection finds no room here fails at once
        listener.listen(socket.SOMAXCONN)
    except OSError as error:
        listener.close()
        raise failed(f"listen at {path}", error, remedy=f"see ls -ldZ {path.parent}") from None
    return listener


class Server:
    """Serves one listening socket until `stop`; `known` are the requests that it takes."""

    def __init__(
        self, listener: socket.socket, answer: Answer, *, known: frozenset[str] = protocol.REQUESTS
    ) -> None:
        self._listener = listener
        self._answer = answer
        self._known = known
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._slots_of_others = threading.BoundedSemaphore(_MAX_OF_OTHERS)
        self._slots_of_user: dict[int, threading.BoundedSemaphore] = {}
        self._stopping = threading.Event()
        self._wake = socket.socketpair()
        self._answering = 0
        self._answered = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="server", daemon=True)

    def start(self) -> None:
        """Start the threads that answer."""
        self._thread.start()

    def stop(self) -> None:
        """Take no new requests, finish those at hand (a migration may hang on one), then return.

        Waits for at most the time in which a request must be answered.
        """
        until = time.monotonic() + _FINISH_SECONDS
        self._stopping.set()
        self._wake[1].send(b"x")
        self._thread.join(_FINISH_SECONDS)
        with self._answered:
            self._answered.wait_for(lambda: self._answering == 0, timeout=max(until - time.monotonic(), 0))
        for end in (*self._wake, self._listener):
            end.close()

    def _serve(self) -> None:
        self._listener.setblocking(False)
        while not self._stopping.is_set():
            if self._listener not in select.select([self._listener, self._wake[0]], [], [])[0]:
                continue
            try:
                connection, _ = self._listener.accept()
            except OSError as error:  # else the client went away, or another daemon took it
                if error.errno in _EXHAUSTED:
                    self._stopping.wait(_EXHAUSTED_SECONDS)
                continue
            self._admit(connection)

    def _admit(self, connection: socket.socket) -> None:
        """Give a connection a thread; where a user has too many already, root waits and others are sent away."""
        uid = protocol.peer_uid(connection)
        slots = self._take_slots(uid)
        if slots is None and self._stopping.is_set():
            connection.close()  # clients without an answer ask the next daemon
            return
        if slots is None:
            with connection, contextlib.suppress(OSError):
                connection.setblocking(False)
                connection.sendall(
                    protocol.encode_error(Refused("vfmigrated is busy", "try again in a minute"))
                )
            return
        thread = threading.Thread(
            target=self._converse, args=(connection, uid, slots), name="request", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # The kernel gives no more threads. This client is hung up on; the next may have one.
            slots.close()
            connection.close()

    def _take_slots(self, uid: int) -> Optional[contextlib.ExitStack]:
        """Room for one connection of a user, to be closed after it; None when there is none. Root waits for room."""
        if uid == 0:
            wanted = [self._slots]
        else:
            of_user = self._slots_of_user.setdefault(uid, threading.BoundedSemaphore(_MAX_OF_A_USER))
            wanted = [of_user, self._slots_of_others]
        with contextlib.ExitStack() as taken:
            for slots in wanted:
                if not (self._wait_for(slots) if uid == 0 else slots.acquire(blocking=False)):
                    return None
                taken.callback(slots.release)
            return taken.pop_all()

    def _wait_for(self, slots: threading.BoundedSemaphore) -> bool:
        """Wait for room; False when the server stops before there is any."""
        while not slots.acquire(timeout=_LOOK_AGAIN_SECONDS):
            if self._stopping.is_set():
                return False
        return True

    def _converse(self, connection: socket.socket, uid: int, slots: contextlib.ExitStack) -> None:
        limit = protocol.MAX_LINE_BYTES if uid == 0 else protocol.MAX_LINE_BYTES_OF_OTHERS
        try:
            with connection, connection.makefile("rb") as stream:
                connection.settimeout(_IDLE_SECONDS)
                while not self._stopping.is_set():
                    try:
                        line = protocol.read_line(stream, limit)
                    except InputError as error:
                        connection.sendall(protocol.encode_error(error))
                        return
                    if not line:
                        return
                    with self._busy():
                        connection.sendall(self._reply(line, uid, connection))
        except OSError:
            pass  # the client went away
        finally:
            slots.close()

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        with self._answered:
            self._answering += 1
        try:
            yield
        finally:
            with self._answered:
                self._answering -= 1
                self._answered.notify_all()

    def _reply(self, line: bytes, uid: int, connection: socket.socket) -> bytes:
        try:
            request = replace(
                protocol.decode_request(line, self._known), sender_left=lambda: _is_hung_up(connection)
            )
            return protocol.encode_result(self._answer(request, uid))
        except VfmigrateError as error:
            return protocol.encode_error(error)


def _is_hung_up(connection: socket.socket) -> bool:
    """Whether the other end has closed a connection altogether (unix_poll() in the kernel's net/unix/af_unix.c)."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
