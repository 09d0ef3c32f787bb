# SPDX-License-Identifier: GPL-2.0-or-later
"""The hook as libvirt runs it: a process with arguments, XML on standard input, an answer or one line and status 1."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.unit.test_text import HOSTILE
from vfmigrate.errors import Refused
from vfmigrate.rpc import protocol
from vfmigrate.rpc.server import Server, listening_socket
from vfmigrate.text import printable

HOOK = Path(__file__).parents[3] / "hooks" / "qemu"
VF = "<domain><devices><interface type='hostdev' managed='yes'/></devices></domain>"
PLAIN = "<domain><devices><interface type='network'/></devices></domain>"
MARKED = "<domain><metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'/></metadata></domain>"
GPU = (
    "<domain><devices><hostdev mode='subsystem' type='pci'><source>"
    "<address domain='0x0000' bus='0x00' slot='0x00' function='0x0'/></source></hostdev></devices></domain>"
)
OPERATIONS = ("migrate", "restore", "prepare", "start", "started", "stopped", "release", "reconnect")


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    """The hook, with a socket of the test's own."""
    text = HOOK.read_text()
    assert text.count(f'SOCKET = "{protocol.SOCKET}"') == 1
    copy = tmp_path / "50-vfmigrate"
    copy.write_text(text.replace(str(protocol.SOCKET), str(tmp_path / "sock")))
    copy.chmod(0o755)
    return copy


class Daemon:
    """Answers hook requests as it is told to."""

    def __init__(self) -> None:
        self.requests: list[Mapping[str, Any]] = []
        self.xml: Optional[str] = None
        self.refusal: Optional[Refused] = None

    def __call__(self, request: protocol.Request, _uid: int) -> Mapping[str, Any]:
        self.requests.append(request.arguments)
        if self.refusal:
            raise self.refusal
        return {} if self.xml is None else {"xml": self.xml}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon()
    server = Server(listening_socket(tmp_path / "sock"), daemon)
    server.start()
    yield daemon
    server.stop()


def run(hook: Path, operation: str, xml: str, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = more or ("begin", "-")
    command = [str(hook), "guest1", operation, *arguments]
    return subprocess.run(command, input=xml, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_daemon_is_not_asked_about_a_plain_guest(hook: Path, daemon: Daemon, operation: str) -> None:
    done = run(hook, operation, PLAIN)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert daemon.requests == []


def test_the_daemon_gets_all_arguments_and_the_xml(hook: Path, daemon: Daemon) -> None:
    done = run(hook, "release", VF.replace("yes", "äöü"), "end", "migrated")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (asked,) = daemon.requests
    assert (asked["domain"], asked["operation"], asked["sub_operation"], asked["extra"]) == (
        "guest1",
        "release",
        "end",
        "migrated",
    )
    assert "äöü" in asked["xml"]


def test_the_xml_of_the_answer_is_printed_unchanged(hook: Path, daemon: Daemon) -> None:
    daemon.xml = "<domain>ä</domain>\n"
    assert run(hook, "migrate", MARKED).stdout == daemon.xml


def test_a_refusal_is_one_line_and_status_1(hook: Path, daemon: Daemon) -> None:
    daemon.refusal = Refused("pool 'data' has no free VF", "add one")
    done = run(hook, "migrate", VF)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "vfmigrate: pool 'data' has no free VF; add one\n"


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_names_in_a_refusal_are_escaped(hook: Path, daemon: Daemon, name: str) -> None:
    daemon.refusal = Refused("")
    daemon.refusal.problem = daemon.refusal.remedy = f"guest '{name}'"  # of a daemon that does not escape it
    done = run(hook, "migrate", VF)
    assert (done.returncode, done.stderr[-1:]) == (1, "\n")
    assert printable(done.stderr[:-1]) == done.stderr[:-1]


def test_the_name_of_a_guest_is_escaped_without_the_daemon(hook: Path) -> None:
    command = [str(hook), "\x1b[2J\u202eguest", "start", "begin", "-"]
    done = subprocess.run(command, input=VF, capture_output=True, text=True, check=False)
    assert "guest '\\x1b[2J\\u202eguest' has a VF" in done.stderr


@pytest.mark.parametrize("operation", ["started", "stopped", "release", "reconnect"])
def test_an_error_of_an_operation_that_cannot_be_refused_is_silent(
    hook: Path, daemon: Daemon, operation: str
) -> None:
    daemon.refusal = Refused("something")
    done = run(hook, operation, VF)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("xml", [VF, MARKED])
def test_without_the_daemon_only_operations_that_need_it_are_refused(
    hook: Path, operation: str, xml: str
) -> None:
    done = run(hook, operation, xml)
    if operation in ("migrate", "restore", "prepare", "start"):
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "guest 'guest1' has a VF; run: systemctl start vfmigrated.socket" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_a_guest_with_a_gpu_starts_without_the_daemon(hook: Path) -> None:
    assert run(hook, "start", GPU).returncode == 0


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"[]\n", b'{"version": 1}\n'])
def test_an_invalid_answer_is_a_refusal(hook: Path, tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):  # closed below
                while True:
                    connection, _ = listener.accept()
                    with connection, connection.makefile("rb") as stream:
                        stream.readline()
                        connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        done = run(hook, "start", VF)
        listener.shutdown(socket.SHUT_RDWR)
        server.join(10)
    assert done.returncode == 1
    assert "vfmigrated does not answer" in done.stderr


def test_a_daemon_that_ends_while_it_answers_is_asked_again(hook: Path, tmp_path: Path) -> None:
    """Its watchdog ends one that stands still, and systemd starts another on the same socket."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()

        def serve() -> None:
            first, _ = listener.accept()
            with first, first.makefile("rb") as stream:
                stream.readline()
            second, _ = listener.accept()
            with second, second.makefile("rb") as stream:
                stream.readline()
                second.sendall(protocol.encode_result({"xml": "<domain/>"}))

        server = threading.Thread(target=serve)
        server.start()
        done = run(hook, "migrate", VF)
        server.join(10)
    assert (done.returncode, done.stdout) == (0, "<domain/>")


@pytest.mark.parametrize("operation", ["started", "stopped", "release", "reconnect"])
def test_operations_that_cannot_be_refused_do_not_wait_for_a_hung_daemon(
    hook: Path, tmp_path: Path, operation: str
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        began = time.monotonic()
        done = run(hook, operation, VF)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert time.monotonic() - began < 30  # half of what a hook waits for an answer that decides
        # the event is there for when the daemon goes on
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            request = protocol.decode_request(stream.readline())
    assert request.text("operation") == operation
    at_ms = request.optional_number("at_ms", 1, 1 << 62)
    assert at_ms is not None
    assert at_ms <= time.clock_gettime(time.CLOCK_BOOTTIME) * 1000


def imported(*command: str, xml: str = "") -> set[str]:
    """Modules that an interpreter loads for a command, by -X importtime."""
    run = ["/usr/bin/python3", "-IS", "-X", "importtime", *command]
    told = subprocess.run(run, input=xml, capture_output=True, text=True, check=True).stderr
    return {line.rsplit("|", 1)[1].strip() for line in told.splitlines() if line.startswith("import time")}


def test_a_guest_with_a_vf_loads_nothing_heavy(hook: Path, daemon: Daemon) -> None:
    daemon.xml = "<domain/>"
    loaded = imported(str(hook), "guest1", "migrate", "begin", "-", xml=VF)
    assert len(daemon.requests) == 1
    assert not loaded & {"json", "socket", "re", "enum"}


def test_a_plain_guest_imports_nothing(hook: Path) -> None:
    """Whatever is loaded came with the interpreter itself."""
    assert imported(str(hook), "g", "start", "begin", "-", xml=PLAIN) <= imported("-c", "pass")
