# SPDX-License-Identifier: GPL-2.0-or-later
"""The log: entries as the journal takes them, and what becomes of them without one."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfmigrate.errors import HostError
from vfmigrate.events import table
from vfmigrate.journal import Journal, Traces, encode


def listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(str(path))
    journal.settimeout(5)
    return journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(path: Path) -> Iterator[socket.socket]:
    with listening(path) as journal:
        yield journal


def test_a_value_with_a_line_break_is_sent_with_its_length() -> None:
    assert encode({"A": "b", "C": "d\ne"}) == b"A=b\nC\n" + struct.pack("<Q", 3) + b"d\ne\n"


def test_an_entry_has_its_fields(journal: socket.socket, path: Path) -> None:
    log = Journal(path)
    log.event("start", "guest\n'g' starts", vf="0000:01:00.2")
    lines = journal.recv(65536).decode().splitlines()
    assert "MESSAGE=guest 'g' starts" in lines
    assert {"VFMIGRATE_EVENT=start", "VFMIGRATE_VF=0000:01:00.2", "SYSLOG_IDENTIFIER=vfmigrated"} <= set(
        lines
    )
    log.close()


def test_a_message_is_escaped_and_a_field_is_exact(journal: socket.socket, path: Path) -> None:
    log = Journal(path)
    log.event("start", "guest '\x1b[2J\u202eg' starts", domain="\x1b[2J\u202eg")
    lines = journal.recv(65536).decode().splitlines()
    assert "MESSAGE=guest '\\x1b[2J\\u202eg' starts" in lines
    assert "VFMIGRATE_DOMAIN=\x1b[2J\u202eg" in lines  # journalctl escapes it itself
    log.close()


def test_a_journal_that_does_not_read_blocks_nothing(journal: socket.socket, path: Path) -> None:
    log = Journal(path)

    def write() -> None:
        for number in range(2000):  # more than any queue of datagrams holds (net.unix.max_dgram_qlen)
            log.event("many", f"entry {number}")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(30)
    assert not writer.is_alive()
    taken = 0
    journal.settimeout(0.2)
    with contextlib.suppress(socket.timeout):
        while True:
            journal.recv(65536)
            taken += 1
    assert taken < 2000
    log.event("after", "it reads again")
    assert b"MESSAGE=it reads again" in journal.recv(65536)
    assert f"MESSAGE={2000 - taken} log entries were lost".encode() in journal.recv(65536)
    log.close()


def test_a_restarted_journal_gets_the_next_entry(
    journal: socket.socket, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Journal(path)
    journal.close()
    log.event("lost", "nobody listens")
    assert "nobody listens" in capsys.readouterr().err
    with listening(path) as restarted:
        log.event("found", "somebody listens")
        assert b"somebody listens" in restarted.recv(65536)
    log.close()


def test_an_entry_too_large_for_the_journal_goes_to_stderr(
    journal: socket.socket, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Journal(path)
    log.event("large", "x" * (1 << 20))
    assert "large: xxx" in capsys.readouterr().err
    log.event("small", "y")
    assert b"MESSAGE=y" in journal.recv(65536)
    log.close()


def test_an_unexpected_exception_is_logged_without_its_text(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Journal(path)
    with pytest.raises(ValueError, match="planted-9f1c") as error:
        int("planted-9f1c")
    told = log.bug(error.value)
    assert "ValueError at test_journal.py:" in told
    assert "planted" not in told + capsys.readouterr().err
    log.close()


def test_work_that_fails_is_logged_and_the_next_is_done(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> None:
        raise HostError("VF 0000:e1:00.2 does not exist")

    def fail() -> None:
        raise RuntimeError("planted-5a0e")

    log = Journal(path)
    done: list[str] = []
    log.attempt("look-failed", refuse)
    log.attempt("look-failed", fail)
    log.attempt("look-failed", lambda: done.append("third"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "<4>look-failed: VF 0000:e1:00.2 does not exist"
    assert "RuntimeError at test_journal.py:" in lines[1]
    assert "planted" not in lines[1]
    assert done == ["third"]
    log.close()


def test_an_entry_has_the_message_id_of_its_kind(journal: socket.socket, path: Path) -> None:
    log = Journal(path)
    log.event("migrate", "refused", kind="refused")
    known = table.find("refused")
    assert known is not None
    assert f"MESSAGE_ID={known.message_id}" in journal.recv(65536).decode().splitlines()
    log.close()


def test_entries_about_a_guest_have_the_id_of_its_migration(journal: socket.socket, path: Path) -> None:
    def trace(uuid: str) -> list[str]:
        log.event("plug", "a VF", uuid=uuid)
        lines = journal.recv(65536).decode().splitlines()
        return [line for line in lines if line.startswith("VFMIGRATE_TRACE=")]

    log = Journal(path)
    log.traces.follow("u", "91c3b0a7d2e84f16")
    assert trace("u") == ["VFMIGRATE_TRACE=91c3b0a7d2e84f16"]
    assert trace("other") == []
    log.traces.follow("u", None)
    assert trace("u") == []
    log.close()


def test_a_guest_is_in_its_migration_for_a_time_after_it() -> None:
    now = [100.0]
    traces = Traces(lambda: now[0])
    traces.follow("u", "91c3b0a7d2e84f16")
    assert traces.under_way("u")
    assert traces.end_soon("u", 60.0)
    assert not traces.end_soon("u", 60.0)  # it is over already
    assert traces.under_way("u") is None
    assert traces.of("u") == "91c3b0a7d2e84f16"
    now[0] += 61.0
    assert traces.of("u") is None


def test_the_guests_whose_migration_is_known_are_bounded() -> None:
    traces = Traces()
    for number in range(5000):
        traces.follow(str(number), "91c3b0a7d2e84f16")
    assert traces.of("0") is None
    assert traces.of("4999") is not None
