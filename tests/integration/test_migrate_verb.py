# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate migrate` between two hosts with real libvirt: its output, the result, and the state after Ctrl-C."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hook_calls import BEFORE
from tests.integration.pair import Node, Pair
from tests.testbed import on_terminal
from tests.testbed.migrate import recording

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
GUEST = "g"


def words(target: Node, *options: str) -> Sequence[str]:
    return ("vfmigrate", "migrate", *options, GUEST, f"qemu+tcp://{target.host.name}/system")


def migrate(source: Node, target: Node, *options: str) -> subprocess.CompletedProcess[str]:
    return source.host.run(*words(target, *options), check=False)


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def interrupt(node: Node) -> None:
    """Send SIGINT to the command on a host, as a terminal's Ctrl-C would."""
    pids = node.host.run("pgrep", "-f", "^/usr/bin/python3 .*vfmigrate migrate").stdout.split()
    node.host.run("kill", "-INT", *pids)


def test_a_guest_with_a_vf_arrives_with_its_vf_and_a_report(ready: Pair) -> None:
    a, b = ready.a, ready.b
    empty = a.state()
    a.start_guest(Guest(GUEST, [Vf(a.vf(1), MAC, vlan=42)]))

    done = migrate(a, b)

    assert (done.returncode, done.stderr) == (0, "")
    first, *_ = done.stdout.splitlines()
    assert first == f"migrating guest 'g' to host-b with {MAC} by vfio"
    assert "arrived after " in done.stdout
    assert "ms (by libvirt)" in done.stdout
    assert "stopped for about " in done.stdout
    # the network device behind the VF can send IPv6
    assert f"{MAC} is plugged" in done.stdout or f"{MAC} carries traffic" in done.stdout
    assert a.state() == empty
    assert [claim[1] for claim in b.state().claims.values()] == ["plugged"]


def test_a_guest_without_a_vf_migrates_without_vfmigrate(pair: Pair) -> None:
    a, b = pair.a, pair.b
    a.start_guest(Guest(GUEST))
    done = migrate(a, b)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "migrating guest 'g' to host-b"
    assert (a.host.domains(), b.host.domains()) == ({}, {GUEST: "running"})


def test_migrate_prints_json_events(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest(GUEST, [Vf(a.vf(1), MAC)]))
    done = migrate(a, b, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = events(done.stdout)
    assert {event["schema"] for event in told} == {1}
    assert (told[0]["event"], told[0]["vfs"]) == ("begin", [{"mac": MAC, "strategy": "vfio"}])
    assert told[-1]["event"] == "end"
    assert told[-1]["arrived"] is True
    assert told[-1]["downtime_ms"] >= 0
    assert told[-1]["standstill_ms"] > 0


def test_migrate_shows_a_bar_on_a_terminal(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest(GUEST, [Vf(a.vf(1), MAC)]))
    a.host.write("/run/on_terminal.py", Path(on_terminal.__file__).read_text())
    begin = ("python3", "/run/on_terminal.py", "/run/shown", "")
    done = a.host.run(*begin, *words(b, "--bandwidth", "1"), check=False)
    shown = recording(a.host.path("/run/shown").read_text())
    assert done.returncode == 0, shown
    lines = shown.splitlines()
    assert lines[0] == f"migrating guest 'g' to host-b with {MAC} by vfio"
    assert any(line.startswith("pass 1 ") and "━" in line for line in lines), shown
    assert "MiB memory left" in shown
    assert any(line.startswith("arrived after ") for line in lines), shown


def test_a_refusal_is_one_line_and_changes_nothing(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest(GUEST, [Vf(a.vf(1), MAC)]))
    before = (a.state(), b.state())
    b.hooks.refuse("migrate", "no room", BEFORE)
    done = migrate(a, b)
    assert done.returncode == 69
    (line,) = done.stderr.splitlines()
    assert "no room" in line
    assert "the guest runs on the source" in line
    # the claim of a guest that never arrives expires: libvirt reports a cancelled migration to no hook
    assert (a.state(), replace(b.state(), claims={})) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--undefinesource",), "--undefinesource needs --persistent"),
        (("--parallel-connections", "2"), "--parallel-connections needs --parallel"),
        (("--timeout-cancel",), "--timeout-cancel needs --timeout"),
    ],
)
def test_an_option_without_the_one_that_it_needs_is_refused(
    pair: Pair, options: tuple[str, ...], told: str
) -> None:
    done = migrate(pair.a, pair.b, *options)
    assert (done.returncode, done.stderr) == (2, f"vfmigrate: {told}\n")


def test_options_of_virsh_migrate_are_accepted(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.define_guest(Guest(GUEST, [Vf(a.vf(1), MAC)]))
    a.host.virsh("start", GUEST)
    options = (
        "--live",
        "--persistent",
        "--undefinesource",
        "--parallel",
        "--parallel-connections",
        "2",
        "--p2p",
    )
    done = migrate(a, b, *options, "--bandwidth", "100", "--timeout", "60", "--auto-converge")
    assert (done.returncode, done.stderr) == (0, "")
    assert a.host.domains() == {}
    assert "Persistent:     yes" in b.host.virsh("dominfo", GUEST)


def test_ctrl_c_while_the_destination_prepares_cancels_the_migration(ready: Pair) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest(GUEST, [Vf(a.vf(1), MAC, vlan=42)]))
    before = (a.state(), b.state())
    with b.hooks.hold(GUEST, "started", BEFORE):
        command = a.host.spawn(*words(b, "--unchecked"))
        b.hooks.wait_for("started")
        interrupt(a)
        told = command.stdout
        assert told is not None
        while "cancelling" not in (line := told.readline()):
            assert line, "the command ended without having heard it"
    output, error = command.communicate(timeout=60)
    assert command.returncode == 130, (output, error)
    assert error == ("vfmigrate: the migration of guest 'g' was cancelled; the guest runs on the source\n")
    a.become(before[0])
    b.become(before[1])


def test_a_guest_that_does_not_exist_is_refused(pair: Pair) -> None:
    done = migrate(pair.a, pair.b)
    assert done.returncode == 1
    assert "has no guest 'g'" in done.stderr


def test_a_guest_that_is_shut_off_is_refused(pair: Pair) -> None:
    pair.a.define_guest(Guest(GUEST))
    done = migrate(pair.a, pair.b)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "guest 'g' is not running" in done.stderr


def test_a_destination_that_does_not_answer_is_an_error(pair: Pair) -> None:
    pair.a.start_guest(Guest(GUEST))
    done = pair.a.host.run("vfmigrate", "migrate", GUEST, "qemu+tcp://10.77.0.9/system", check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (75, 1)
    assert pair.a.host.domains() == {GUEST: "running"}
