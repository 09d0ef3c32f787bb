# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon's socket: real connections, bad messages, users without rights, an orderly end."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfmigrate.errors import Denied, Refused, Unreachable, UsageError
from vfmigrate.rpc import protocol
from vfmigrate.rpc.server import Server, listening_socket


class Answers:
    """What the daemon would answer: says who asked; refuses and waits on request."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        #: whether the sender of each `reconcile` had left when it was answered
        self.left: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def __call__(self, request: protocol.Request, uid: int) -> Mapping[str, Any]:
        protocol.authorize(request, uid, frozenset())
        if request.name == "reconcile":
            self.asked.set()
            self.go_on.wait(10)
            self.left.put(request.sender_left())
            return {"changes": []}
        if request.arguments.get("refuse"):
            raise Refused("no free VF", "add one")
        return {"uid": uid}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "sock"


@pytest.fixture
def answers(path: Path) -> Iterator[Answers]:
    answers = Answers()
    server = Server(listening_socket(path), answers)
    server.start()
    yield answers
    answers.go_on.set()
    server.stop()


@pytest.mark.usefixtures("answers")
def test_a_request_is_answered(path: Path) -> None:
    assert protocol.ask("ping", {}, path=path) == {"uid": os.getuid()}


@pytest.mark.usefixtures("answers")
def test_a_refusal_is_raised_by_the_client(path: Path) -> None:
    with pytest.raises(Refused) as error:
        protocol.ask("ping", {"refuse": True}, path=path)
    assert (error.value.problem, error.value.remedy) == ("no free VF", "add one")


def talk(path: Path, data: bytes) -> list[Any]:
    """Send bytes, close our half, and read every answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            return [json.loads(line) for line in stream]


@pytest.mark.usefixtures("answers")
def test_a_connection_carries_several_requests(path: Path) -> None:
    told = talk(path, protocol.encode_request("ping", {}) * 3)
    assert [answer["result"]["uid"] for answer in told] == [os.getuid()] * 3


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize(
    ("line", "kind", "told"),
    [
        (b"\n", "input", "not a line of JSON"),
        (b"[]\n", "input", "not a JSON object"),
        (b"[" * 100000 + b"\n", "input", "not a line of JSON"),
        (b'{"version": 1, "request": "pi', "input", "cut off"),
        (b'{"version": 2, "request": "ping"}\n', "usage", "has version 2; this daemon supports version 1"),
        (b'{"version": 1, "request": "explode"}\n', "usage", "unknown request 'explode'"),
        (b'{"version": 1, "request": ["ping"]}\n', "usage", "unknown request"),
        (b'{"version": 1, "request": "ping", "arguments": 3}\n', "input", "not a JSON object"),
        (b"\xff\xfe\n", "input", "not a line of JSON"),
    ],
)
def test_a_malformed_message_is_refused_with_its_fault(path: Path, line: bytes, kind: str, told: str) -> None:
    (answer,) = talk(path, line)
    assert answer["error"]["kind"] == kind
    assert told in answer["error"]["problem"]


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.usefixtures("answers")
def test_any_bytes_are_answered(path: Path, data: bytes) -> None:
    for answer in talk(path, data):
        assert ("error" in answer) != ("result" in answer)
    assert protocol.ask("ping", {}, path=path) == {"uid": os.getuid()}


_CROWD = """
import socket, sys
held = []
for _ in range(300):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    held.append(connection)
print(held[-1].makefile().readline().strip(), flush=True)
held[0].sendall(b"x" * 70000 + b"\\n")
print(held[0].makefile().readline().strip(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_root_is_served_when_others_use_all_connections() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "sock"
        server = Server(listening_socket(path), Answers())
        server.start()
        command = ["/usr/bin/python3", "-IS", "-c", _CROWD, str(path)]
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, user=65534, group=65534, stdin=pipe, stdout=pipe, text=True, cwd="/"
        ) as crowd:
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            sent_away, too_long = (json.loads(crowd.stdout.readline())["error"] for _ in range(2))
            assert protocol.ask("ping", {}, path=path, timeout=10) == {"uid": 0}
            crowd.stdin.close()
        server.stop()
    assert (sent_away["kind"], sent_away["problem"]) == ("refused", "vfmigrated is busy")
    assert "too long" in too_long["problem"]


_USERS = """
import os, socket, sys
pids = []
for uid in range(60000, 60040):
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgid(uid)
        os.setuid(uid)
        held = []
        for _ in range(32):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(sys.argv[1])
            held.append(connection)
        os.write(here, b"x")
        sys.stdin.read()
        os._exit(0)
    os.read(there, 1)
    pids.append(pid)
print("all there", flush=True)
sys.stdin.read()
for pid in pids:
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_root_is_served_when_many_users_have_their_full_number_of_connections() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "sock"
        server = Server(listening_socket(path), Answers())
        server.start()
        command = ["/usr/bin/python3", "-IS", "-c", _USERS, str(path)]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd="/") as users:
            assert users.stdin is not None
            assert users.stdout is not None
            assert users.stdout.readline() == "all there\n"
            assert protocol.ask("ping", {}, path=path, timeout=10) == {"uid": 0}
            serving = [thread for thread in threading.enumerate() if thread.name == "request"]
            assert len(serving) <= 128 + 1  # the last is of root
            users.stdin.close()
        server.stop()


_FEW_DESCRIPTORS = """
import resource, sys, time
from pathlib import Path
from vfmigrate.rpc.server import Server, listening_socket
listener = listening_socket(Path(sys.argv[1]))
server = Server(listener, lambda request, uid: {})
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
server.start()
print("ready", flush=True)
for _ in sys.stdin:
    began, spent = time.monotonic(), time.process_time()
    time.sleep(0.5)
    print((time.process_time() - spent) / (time.monotonic() - began), flush=True)
"""


def test_a_daemon_out_of_descriptors_pauses_and_answers_when_some_are_free(
    tmp_path: Path,
) -> None:
    path = tmp_path / "sock"
    library = str(Path(protocol.__file__).parents[2])
    command = [sys.executable, "-B", "-c", _FEW_DESCRIPTORS, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env={"PYTHONPATH": library}, stdin=pipe, stdout=pipe, text=True, bufsize=1
    ) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
        crowd = [socket.socket(socket.AF_UNIX) for _ in range(40)]
        for connection in crowd:
            connection.connect(str(path))
        daemon.stdin.write("how busy?\n")
        assert float(daemon.stdout.readline()) < 0.5  # of one processor; it was all of one
        for connection in crowd:
            connection.close()
        assert protocol.ask("ping", {}, path=path, timeout=10) == {}
        daemon.stdin.close()
        daemon.kill()


_CLIENT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    connection.sendall(sys.argv[2].encode())
    sys.stdout.write(connection.makefile().readline())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_user_without_rights_is_denied() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        path = Path(directory) / "sock"
        server = Server(listening_socket(path), Answers())
        server.start()
        asked = protocol.encode_request("reconcile", {}).decode()
        command = ["/usr/bin/python3", "-IS", "-c", _CLIENT, str(path), asked]
        run = subprocess.run(
            command, user=65534, group=65534, capture_output=True, text=True, cwd="/", check=True
        )
        server.stop()
    assert json.loads(run.stdout)["error"]["kind"] == "denied"
    assert "user 'nobody' has no right to send the request 'reconcile' to vfmigrated" in run.stdout


def test_readers_can_send_requests_that_read_only() -> None:
    hook, status = protocol.Request("hook", {}), protocol.Request("status", {})
    protocol.authorize(hook, 0, frozenset())
    protocol.authorize(status, 65534, frozenset({"nobody"}))
    with pytest.raises(Denied, match="user 'nobody' has no right to send the request 'status' to vfmigrated"):
        protocol.authorize(status, 65534, frozenset())
    with pytest.raises(Denied, match="run the command as root"):
        protocol.authorize(hook, 65534, frozenset({"nobody"}))


def test_clients_can_send_the_requests_of_clients_and_readers() -> None:
    claim, status = protocol.Request("claim", {}), protocol.Request("status", {})
    clients = frozenset({"nobody"})
    protocol.authorize(claim, 65534, frozenset(), clients)
    protocol.authorize(status, 65534, frozenset(), clients)
    with pytest.raises(Denied, match="add the user to clients"):
        protocol.authorize(claim, 65534, clients, frozenset())
    for request in sorted(protocol.ROOT_ONLY):
        with pytest.raises(Denied, match="run the command as root"):
            protocol.authorize(protocol.Request(request, {}), 65534, clients, clients)


def test_without_a_daemon_the_remedy_starts_it(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"vfmigrated does not answer.*systemctl start vfmigrated"):
        protocol.ask("ping", {}, path=tmp_path / "nobody")


def test_a_missing_text_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="request 'hook' needs the text 'xml'"):
        protocol.Request("hook", {"xml": 3}).text("xml")


def test_stopping_waits_for_the_request_that_runs(path: Path) -> None:
    answers = Answers()
    server = Server(listening_socket(path), answers)
    server.start()
    told: list[Mapping[str, Any]] = []
    client = threading.Thread(target=lambda: told.append(protocol.ask("reconcile", {}, path=path)))
    client.start()
    assert answers.asked.wait(10)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    stopping.join(0.2)
    assert stopping.is_alive()
    answers.go_on.set()
    stopping.join(10)
    client.join(10)
    assert told == [{"changes": []}]


@pytest.mark.skipif(os.getuid() != 0, reason="only root waits for room")
def test_stopping_does_not_wait_for_a_client_of_root_that_waits_for_room(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfmigrate.rpc.server._MAX_CONNECTIONS", 2)
    server = Server(listening_socket(path), Answers())
    server.start()
    with ExitStack() as connections:
        for _ in range(3):  # the third is accepted and finds no room
            connection = connections.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            connection.settimeout(10)
            connection.connect(str(path))
        connection.settimeout(0.5)
        with pytest.raises(socket.timeout):
            connection.recv(100)
        stopping = threading.Thread(target=server.stop, daemon=True)
        stopping.start()
        stopping.join(10)
        assert not stopping.is_alive()
        assert connection.recv(100) == b""  # without an answer, so that it asks the next daemon


@pytest.mark.parametrize("leaves", [True, False])
def test_it_is_known_whether_who_sent_a_request_has_left(answers: Answers, path: Path, leaves: bool) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        client.sendall(protocol.encode_request("reconcile", {}))
        client.shutdown(socket.SHUT_WR)  # who sends no more can still read
        assert answers.asked.wait(10)
        if leaves:
            client.close()
        answers.go_on.set()
        assert answers.left.get(timeout=10) == leaves
