# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of the journal, and what is made of its entries."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from vfmigrate import deadline
from vfmigrate.daemon.event_history import EventHistory
from vfmigrate.errors import HostError, UsageError
from vfmigrate.rpc.protocol import Request

ID, OTHER = "91c3b0a7d2e84f16", "0123456789abcdef"
UUID = "11111111-1111-4111-8111-111111111111"


class Journal:
    """A program in place of journalctl: it prints entries, whatever it is asked, and writes down what it was asked."""

    def __init__(self, directory: Path) -> None:
        self._entries, self._asked = directory / "entries", directory / "asked"
        self.program = directory / "journalctl"
        self._entries.write_text("")
        self._asked.write_text("")
        self.plan(f"import sys; print(open({str(self._entries)!r}).read(), end='')")

    def plan(self, code: str) -> None:
        note = f"import sys; print(*sys.argv[1:], file=open({str(self._asked)!r}, 'a'))"
        self.program.write_text(f"#!{sys.executable} -IS\n{note}\n{code}\n")
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    def add(self, event: str, at: int = 5_000_000, **more: Any) -> None:
        number = len(self._entries.read_text().splitlines())
        entry = {
            "__CURSOR": str(number),
            "__REALTIME_TIMESTAMP": str(at),
            "SYSLOG_IDENTIFIER": "vfmigrated",
            "PRIORITY": "6",
            "MESSAGE": f"{event} of guest 'g'",
            "VFMIGRATE_EVENT": event,
            **more,
        }
        with self._entries.open("a") as file:
            print(json.dumps(entry), file=file)

    def asked(self) -> list[str]:
        return self._asked.read_text().splitlines()

    def ask(self, **arguments: Any) -> list[dict[str, Any]]:
        history = EventHistory(program=str(self.program))
        events = history.answer(Request("trace", arguments))["events"]
        assert isinstance(events, list)
        return events


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path)


def test_an_entry_has_its_time_text_and_fields(journal: Journal) -> None:
    journal.add("migrate", VFMIGRATE_TRACE=ID, VFMIGRATE_POOL="data", _SOURCE_REALTIME_TIMESTAMP="4000000")
    (event,) = journal.ask(trace=ID)
    assert (event["time"], event["event"], event["text"]) == (4.0, "migrate", "migrate of guest 'g'")
    assert event["fields"] == {"trace": ID, "pool": "data"}
    assert f"SYSLOG_IDENTIFIER=vfmigrated _UID=0 VFMIGRATE_TRACE={ID} + " in journal.asked()[0]


def test_a_message_that_is_not_text_is_shown_as_far_as_it_is(journal: Journal) -> None:
    journal.add("migrate", VFMIGRATE_TRACE=ID, MESSAGE=[103, 255])
    assert journal.ask(trace=ID)[0]["text"] == "g\ufffd"


def test_entries_of_another_migration_in_the_same_time_are_left_out(journal: Journal) -> None:
    journal.add("vf-left")
    journal.add("migrate", VFMIGRATE_TRACE=OTHER)
    found = journal.ask(trace=ID, uuid=UUID, since=1000, until=9000)
    assert [event["event"] for event in found] == ["vf-left"]
    assert "--since=@1.000 --until=@9.000" in journal.asked()[1]


@pytest.mark.parametrize(
    ("event", "fields", "found"),
    [
        ("migrate", {}, True),
        ("release", {"VFMIGRATE_REASON": "migrated"}, True),
        ("release", {"VFMIGRATE_REASON": "shutdown"}, False),
        ("stopped", {}, False),
    ],
)
def test_the_last_migration_of_a_guest_is_one_that_took_place(
    journal: Journal, event: str, fields: dict[str, str], found: bool
) -> None:
    journal.add(event, 5_000_000, VFMIGRATE_TRACE=ID, **fields)
    assert bool(journal.ask(guest="g")) is found


def test_through_a_network_only_guests_of_its_pool_are_answered_about(journal: Journal) -> None:
    journal.add("migrate", VFMIGRATE_TRACE=ID, VFMIGRATE_POOL="data storage")
    assert journal.ask(trace=ID, pool="storage")
    assert journal.ask(trace=ID, pool="other") == []


@pytest.mark.parametrize(
    "arguments", [{}, {"trace": "x"}, {"guest": ""}, {"guest": "g" * 256}, {"trace": f"{ID}\n+"}]
)
def test_a_request_for_nothing_in_particular_is_refused(journal: Journal, arguments: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        journal.ask(**arguments)
    assert journal.asked() == []


def test_a_journal_that_cannot_be_read_is_an_error(journal: Journal) -> None:
    journal.plan("import sys; sys.exit('no journal files were opened')")
    with pytest.raises(HostError, match="no journal files were opened"):
        journal.ask(trace=ID)
    journal.program.unlink()
    with pytest.raises(HostError, match="cannot run"):
        journal.ask(trace=ID)


def test_a_journal_that_hangs_is_given_up(journal: Journal) -> None:
    journal.plan("import time; time.sleep(600)")
    with deadline.within(0.5), pytest.raises(HostError, match="journalctl did not answer within"):
        journal.ask(trace=ID)
