# SPDX-License-Identifier: GPL-2.0-or-later
"""vfmigrated: the only part of vfmigrate with privileges, and the owner of the claims.

Answers the hook and the CLI over a unix socket, which systemd hands over (LISTEN_FDS, sd_listen_fds(3)) so that it is
there also while the daemon is being restarted; in the foreground it makes the socket itself. Puts the parts together
and owns the threads: one for each connection, one keeper, libvirt's own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from vfmigrate import config, journal, protocol
from vfmigrate.announcer import Announcer
from vfmigrate.claims import ClaimStore
from vfmigrate.config import Config
from vfmigrate.converge import Converger
from vfmigrate.devlink import Devlink
from vfmigrate.errors import HostError, InputError, VfmigrateError
from vfmigrate.host import Host
from vfmigrate.journal import Journal
from vfmigrate.keeper import Keeper
from vfmigrate.links import Links
from vfmigrate.operations import HookOperations
from vfmigrate.ovs import OpenVswitch
from vfmigrate.status import status
from vfmigrate.sysfs import Sysfs
from vfmigrate.version import VERSION

CLAIMS = Path("/run/vfmigrate/claims")
_LISTEN_FDS_START = 3  # sd_listen_fds(3)
_MAX_CONNECTIONS = 256
_IDLE_SECONDS = 120.0
# Long enough for a hook's request, shorter than systemd's patience (TimeoutStopSec).
_FINISH_SECONDS = 30.0


class Daemon:
    """The parts, put together."""

    def __init__(self, settings: Config, claims: Path, log: Journal) -> None:
        self.config = settings
        self.log = log
        self.store = ClaimStore(claims)
        self.host = Host(Sysfs(), Devlink(), Links(), OpenVswitch(settings.ovsdb))
        converger = Converger(self.host, settings, self.store)
        self.announcer = Announcer(settings, self.host, self.store, log)
        self.operations = HookOperations(
            settings, self.host, self.store, converger, log, on_started=self.announcer.warm
        )
        self.keeper = Keeper(settings, self.host, self.store, converger, self.operations, self.announcer, log)
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._stopping = threading.Event()
        self._wake = socket.socketpair()
        self._answering = 0
        self._answered = threading.Condition()

    def start(self) -> None:
        """Tell of claims that could not be read, and begin to keep the host."""
        for broken in self.store.broken:
            self.log.event("claim-broken", broken, level=journal.WARNING)
        pools = ", ".join(sorted(self.config.pools)) or "none (see vfmigrate.conf(5))"
        self.log.event("up", f"vfmigrated {VERSION}; pools: {pools}; claims: {len(self.store.all())}")
        self.keeper.start()

    def stop(self) -> None:
        """Take no new requests, finish those at hand (a migration may hang on one), then end."""
        self._stopping.set()
        self._wake[1].send(b"x")
        with self._answered:
            self._answered.wait_for(lambda: self._answering == 0, timeout=_FINISH_SECONDS)
        self.keeper.stop()
        self.announcer.stop()
        self.log.event("down", "vfmigrated ends; claims stay")

    def serve(self, listener: socket.socket) -> None:
        """Answer until `stop`. The listener is only looked at: systemd keeps it, and requests wait in it."""
        listener.setblocking(False)
        while not self._stopping.is_set():
            if listener not in select.select([listener, self._wake[0]], [], [])[0]:
                continue
            self._slots.acquire()
            try:
                connection, _ = listener.accept()
            except OSError:
                self._slots.release()
                continue
            threading.Thread(target=self._converse, args=(connection,), name="request", daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as stream:
                connection.setblocking(True)
                connection.settimeout(_IDLE_SECONDS)
                uid = protocol.peer_uid(connection)
                while not self._stopping.is_set():
                    try:
                        line = protocol.read_line(stream)
                    except InputError as error:
                        connection.sendall(protocol.encode_error(error))
                        return
                    if not line:
                        return
                    with self._busy():
                        connection.sendall(self._reply(line, uid))
        except OSError:
            pass  # the client went away
        finally:
            self._slots.release()

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

    def _reply(self, line: bytes, uid: int) -> bytes:
        try:
            return protocol.encode_result(self._answer(protocol.decode_request(line), uid))
        except VfmigrateError as error:
            return protocol.encode_error(error)

    def _answer(self, request: protocol.Request, uid: int) -> dict[str, Any]:
        protocol.authorize(request, uid, self.config.readers)
        try:
            return self._do(request)
        except VfmigrateError:
            raise
        except Exception as error:  # noqa: BLE001 - told below
            # The last resort: whatever we did not foresee must reach the administrator as a line, not as silence.
            where = error.__traceback__
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else "?"
            self.log.event("bug", f"{type(error).__name__} at {place}", level=journal.ERROR)
            raise VfmigrateError(
                f"vfmigrated has a bug: {type(error).__name__} at {place}",
                "report it with the output of journalctl -t vfmigrated",
            ) from None

    def _do(self, request: protocol.Request) -> dict[str, Any]:
        if request.name == "hook":
            xml = self.operations.handle(
                request.text("operation"),
                request.text("sub_operation"),
                request.text("extra"),
                request.text("xml"),
            )
            return {} if xml is None else {"xml": xml}
        if request.name == "reconcile":
            return {"changes": self.keeper.reconcile()}
        if request.name == "status":
            return status(self.config, self.host, self.store)
        return {"version": VERSION}


def listening_socket(path: Path) -> socket.socket:
    """The socket that systemd handed over, or one of our own at `path`."""
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
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise HostError(f"cannot listen at {path}: {error.strerror}") from None
    return listener


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing where it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        try:
            notifier.connect("\0" + address[1:] if address.startswith("@") else address)
            notifier.send(state.encode())
        except OSError:
            pass


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="vfmigrated",
        description="Daemon of vfmigrate; usually started by systemd through vfmigrated.socket.",
    )
    parser.add_argument(
        "--config", type=Path, default=config.DEFAULT_PATH, metavar="FILE", help="%(default)s"
    )
    parser.add_argument("--socket", type=Path, default=protocol.SOCKET, metavar="PATH", help="%(default)s")
    parser.add_argument("--claims", type=Path, default=CLAIMS, metavar="DIRECTORY", help="%(default)s")
    parser.add_argument(
        "--check", action="store_true", help="read the configuration, say what is wrong, and end"
    )
    parser.add_argument("--version", action="version", version=VERSION)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run until SIGTERM or SIGINT; returns the exit status."""
    options = arguments().parse_args(argv)
    log = Journal()
    try:
        settings = config.load(options.config)
        if options.check:
            return 0
        daemon = Daemon(settings, options.claims, log)
        listener = listening_socket(options.socket)
    except VfmigrateError as error:
        print(f"vfmigrated: {error}", file=sys.stderr)
        return error.exit_code
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    daemon.start()
    server = threading.Thread(target=daemon.serve, args=(listener,), name="server", daemon=True)
    server.start()
    notify("READY=1")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    notify("STOPPING=1")
    daemon.stop()
    return 0
