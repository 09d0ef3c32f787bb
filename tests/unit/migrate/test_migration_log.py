# SPDX-License-Identifier: GPL-2.0-or-later
"""The command's own entries in the journal."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vfmigrate.errors import HostError
from vfmigrate.journal import COMMAND, Journal
from vfmigrate.migrate.migration_log import MigrationLog
from vfmigrate.migrate.workflow import MigrationReport

ID = "91c3b0a7d2e84f16"
MIGRATION = cast(
    Any, SimpleNamespace(name="g", uuid="u", report=MigrationReport(total_ms=1234.5, downtime_ms=212))
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "journal"))
        server.settimeout(5)
        yield server


def log(tmp_path: Path) -> MigrationLog:
    journal = Journal(tmp_path / "journal", COMMAND, aloud=False)
    return MigrationLog(MIGRATION, "host-b", "migrating guest 'g'", ID, log=journal)


def entry(server: socket.socket) -> set[str]:
    return set(server.recv(65536).decode().splitlines())


def test_begin_and_end_have_the_id_and_the_times(server: socket.socket, tmp_path: Path) -> None:
    with log(tmp_path):
        begun = entry(server)
    common = {"SYSLOG_IDENTIFIER=vfmigrate", f"VFMIGRATE_TRACE={ID}", "VFMIGRATE_DESTINATION=host-b"}
    assert common | {"VFMIGRATE_EVENT=migration-begun", "MESSAGE=migrating guest 'g'"} <= begun
    ended = entry(server)
    assert common | {"VFMIGRATE_EVENT=migration-ended", "VFMIGRATE_DOWNTIME_MS=212"} <= ended
    assert "VFMIGRATE_TOTAL_MS=1234" in ended


def test_a_failure_is_logged_with_its_cause(server: socket.socket, tmp_path: Path) -> None:
    with pytest.raises(HostError), log(tmp_path):
        raise HostError("the migration of guest 'g' failed")
    entry(server)
    assert {"VFMIGRATE_EVENT=migration-failed", "MESSAGE=the migration of guest 'g' failed"} <= entry(server)


def test_without_a_journal_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with log(tmp_path):
        pass
    assert capsys.readouterr() == ("", "")
