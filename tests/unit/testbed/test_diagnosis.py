# SPDX-License-Identifier: GPL-2.0-or-later
"""What is saved of a host when a step fails: the output of commands, or QEMU's monitor where ssh gets no answer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.testbed import diagnosis, terminal
from tests.testbed.host import Host, Result
from tests.testbed.run import CommandError


class FakeHost(Host):
    """Answers commands with themselves, or not at all."""

    silent: frozenset[str] = frozenset()

    def result(self, script: str, timeout: float = 60, stdin: bytes = b"") -> Result:
        del stdin
        if script in self.silent:
            raise subprocess.TimeoutExpired("ssh", timeout)
        return Result(0, f"{script} on {self.hostname}\n", "and an error\n", 0.1)

    def ask_monitor(self, command: str) -> str:
        if command == diagnosis.MONITOR[-1]:
            raise OSError("the connection was closed")
        return f"{command} of {self.hostname}"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_output_of_every_command_is_saved_for_both_hosts(tmp_path: Path) -> None:
    error = CommandError("uptime", 1, "")
    folder = tmp_path / "new" / "moment"
    diagnosis.save_moment([FakeHost("a", 1), FakeHost("b", 2)], folder, "guest boots", error)
    expected = {f"host-{name}.{what}" for name in "ab" for what in ("answers", *diagnosis.MOMENT)}
    assert names(folder) == {"step", *expected}
    assert (folder / "step").read_text().startswith("guest boots\nCommandError: uptime: exit status 1")
    assert (folder / "host-b.dmesg").read_text() == "dmesg | tail -n 200 on host-b\nand an error\n"


def test_a_host_without_an_answer_is_looked_at_through_its_monitor(tmp_path: Path) -> None:
    host = FakeHost("a", 1)
    host.silent = frozenset({"uptime"})
    diagnosis.save([host], tmp_path, diagnosis.LOGS)
    assert names(tmp_path) == {"host-a.answers", "host-a.monitor"}
    assert "no answer within" in (tmp_path / "host-a.answers").read_text()
    shown = (tmp_path / "host-a.monitor").read_text()
    assert "== info cpus\ninfo cpus of host-a" in shown
    assert f"== {diagnosis.MONITOR[-1]}\nthe connection was closed" in shown


def test_a_command_that_hangs_does_not_keep_the_others_from_running(tmp_path: Path) -> None:
    host = FakeHost("a", 1)
    host.silent = frozenset({diagnosis.LOGS["libvirtd"]})
    diagnosis.save([host], tmp_path, diagnosis.LOGS)
    assert names(tmp_path) == {f"host-a.{what}" for what in ("answers", *diagnosis.LOGS)}
    assert "no answer within" in (tmp_path / "host-a.libvirtd").read_text()


def fail(title: str) -> None:
    with terminal.step(title):
        raise ValueError("bad")


def test_a_step_that_fails_calls_the_hook_before_the_error_goes_on() -> None:
    called: list[tuple[str, str]] = []
    with terminal.on_failure(lambda title, error: called.append((title, str(error)))):
        with terminal.step("this one works"):
            pass
        with pytest.raises(ValueError, match="bad"):
            fail("this one fails")
    with pytest.raises(ValueError, match="bad"):
        fail("after the block")
    assert called == [("this one fails", "bad")]
