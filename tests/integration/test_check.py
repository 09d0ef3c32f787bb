# SPDX-License-Identifier: GPL-2.0-or-later
"""`vfmigrate check` between two namespace hosts, with real libvirt and vfmigrated on both."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.integration.guests import EMULATOR, Guest, Vf
from tests.integration.hosts import BRIDGE
from tests.integration.pair import Node, Pair
from tests.testbed.faults_planted import CLEAR_FLAWS, GUEST_FLAWS

pytestmark = pytest.mark.hosts

MAC = "52:54:00:00:00:02"
NETWORK = "vfmigrate-data"
CHECK = "vfmigrate check g qemu+tcp://host-b/system"
# `vfmigrate provision`, which switches it on, has not run.
UNPROVISIONED = {(side, "offload", "warning") for side in ("source", "destination")}
# The switch of these hosts is no kernel's, which is a warning of every check.
USERSPACE = f"bridge {BRIDGE} has the userspace datapath"


@dataclass
class Answer:
    """The output and the exit status of `vfmigrate check`."""

    status: int
    lines: list[dict[str, str]] = field(default_factory=list)
    text: str = ""

    def bad(self) -> list[tuple[str, str, str]]:
        return [
            (line["side"], line["check"], line["severity"]) for line in self.lines if line["severity"] != "ok"
        ]

    def said(self, check: str) -> str:
        return " ".join(line["text"] for line in self.lines if line["check"] == check)


def check(source: Node, target: Node, *words: str, guest: str = "g") -> Answer:
    """Check a guest, with JSON output."""
    uri = f"qemu+tcp://{target.host.name}/system"
    done = source.host.run("vfmigrate", "check", "--json", *words, guest, uri, check=False, timeout=180)
    told: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    assert told.get("can_go") == (done.returncode == 0)
    lines = [line for line in told.get("checks", []) if USERSPACE not in line["text"]]
    return Answer(done.returncode, lines, done.stderr)


@pytest.fixture
def guest(ready: Pair) -> Pair:
    """Guest g with a VF runs on host A; offload is on, as provisioning leaves it."""
    for node in (ready.a, ready.b):
        node.host.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:hw-offload=true")
    ready.a.start_guest(Guest("g", [Vf(ready.a.vf(1), MAC, vlan=42)]))
    ready.a.wait_until_settled()
    return ready


def test_a_guest_without_findings_migrates(guest: Pair) -> None:
    a, b = guest.a, guest.b
    answer = check(a, b)
    assert (answer.status, answer.bad()) == (0, [])
    assert {line["side"] for line in answer.lines} == {"source", "destination", "pair"}
    before = (a.state(), b.state())
    said = a.host.run("vfmigrate", "check", "g", "qemu+tcp://host-b/system", check=False).stdout
    assert said.count(USERSPACE) == 2
    check(a, b)
    assert (a.state(), b.state()) == before  # check changes nothing
    outcome = a.migrate("g", b)
    assert outcome.status == 0, outcome.error
    # the way back, checked from a host that is not the source: through libvirt on both sides
    uris = ("-c", "qemu+tcp://host-b/system")
    answer = check(a, a, *uris)
    assert (answer.status, answer.bad()) == (0, [])


def test_the_output_is_one_line_a_result_and_fits_the_terminal(guest: Pair) -> None:
    a, b = guest.a, guest.b
    b.host.vsctl("del-br", BRIDGE)
    done = a.host.run("vfmigrate", "check", "g", "qemu+tcp://host-b/system", check=False)
    try:
        assert done.returncode == 1
        problem = f"  error    host-b: there is no bridge '{BRIDGE}'; run on host-b: vfmigrate provision"
        assert problem in done.stdout.splitlines()  # into a pipe, each result is one line
        assert done.stdout.splitlines()[0].endswith(":")
        assert done.stdout.splitlines()[-1].startswith("guest 'g' cannot migrate to host-b: 1 error, ")
        narrow = a.host.run(
            "env", "COLUMNS=80", "script", "-qec", CHECK, "/dev/null", check=False
        ).stdout.splitlines()
        assert all(len(line) <= 80 for line in narrow)
        assert " ".join(" ".join(narrow).split()) == " ".join(done.stdout.split())
        assert done.stderr == ""
    finally:
        b.host.add_bridge()


def test_an_unknown_guest_or_host_is_an_error(ready: Pair) -> None:
    a = ready.a
    done = a.host.run("vfmigrate", "check", "nobody", "qemu+tcp://host-b/system", check=False)
    assert (done.returncode, "has no guest 'nobody'" in done.stderr) == (1, True)
    done = a.host.run("vfmigrate", "check", "nobody", "qemu+tcp://host-c/system", check=False)
    assert (done.returncode, "cannot connect to libvirt" in done.stderr) == (75, True)
    assert a.host.run("vfmigrate", "check", "nobody", check=False).returncode == 2


def test_a_daemon_that_does_not_answer_is_an_error(guest: Pair) -> None:
    a, b = guest.a, guest.b
    b.host.virsh("net-destroy", NETWORK)
    answer = check(a, b)
    assert answer.bad() == [("destination", "daemon", "error")]
    assert "libvirt runs no network of a pool" in answer.said("daemon")
    a.product.stop()
    answer = check(a, b)
    assert ("source", "daemon", "error") in answer.bad()
    assert "vfmigrated does not answer" in answer.said("daemon")


def test_check_reports_the_problems_of_a_destination(guest: Pair) -> None:
    """Several problems at a time: check reports each of them."""
    a, b = guest.a, guest.b
    b.host.stop_vswitchd()
    b.host.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:hw-offload=false")
    b.host.path("/etc/libvirt/hooks/qemu.d/50-vfmigrate").chmod(0o644)
    b.host.virsh("define", "/dev/stdin", stdin=Guest("g", number=9).xml())
    try:
        answer = check(a, b)
    finally:
        b.host.start_vswitchd()
    assert sorted(answer.bad()) == [
        ("destination", "hook", "error"),
        ("destination", "name", "error"),
        ("destination", "offload", "warning"),
        ("destination", "openvswitch", "error"),
    ]


def test_check_reports_the_problems_of_guests(ready: Pair) -> None:
    """The problems that the test bed plants in guests, here in guests that do not run."""
    a, b = ready.a, ready.b
    for flaw in GUEST_FLAWS:
        a.host.run("sh", "-c", flaw.plant)
        a.host.virsh("define", "/dev/stdin", stdin=flaw.xml(a.vf(1), EMULATOR))
        answer = check(a, b, guest="flawed")
        assert set(answer.bad()) - UNPROVISIONED == {
            flaw.expected.line(),
            ("source", "running", "warning"),
        }, flaw.name
        assert flaw.expected.names in answer.said(flaw.expected.check)
        if flaw.expected.check == "disk":
            copied = check(a, b, "--copy-storage-all", guest="flawed")
            assert set(copied.bad()) - UNPROVISIONED == {("source", "running", "warning")}
        a.host.virsh("undefine", "flawed")
    a.host.run("sh", "-c", CLEAR_FLAWS)


def test_too_little_bandwidth_is_an_error(guest: Pair) -> None:
    guest.a.host.virsh("migrate-setspeed", "g", "1000")
    assert "1000 MiB/s" in check(guest.a, guest.b).said("dirty-rate")
    assert "5 MiB/s" in check(guest.a, guest.b, "--bandwidth", "5").said("dirty-rate")


def test_a_guest_that_is_there_already_is_refused_by_name(guest: Pair) -> None:
    """Whatever the URI is: libvirt knows the host by its UUID."""
    a = guest.a
    for verb in ("check", "migrate"):
        for uri in ("qemu:///system", "qemu+tcp://host-a/system"):
            done = a.host.run("vfmigrate", verb, "g", uri, check=False)
            assert done.returncode == 1
            assert done.stderr.startswith("vfmigrate: guest 'g' is on host-a already; give ")
    assert a.host.domains() == {"g": "running"}


def test_only_problems_are_shown_without_verbose(guest: Pair) -> None:
    words = ("vfmigrate", "check", "g", "qemu+tcp://host-b/system")
    short = guest.a.host.run(*words).stdout.splitlines()
    assert not [line for line in short if line.startswith("  ok ")]
    assert short[-1].startswith("guest 'g' can migrate to host-b: 0 errors, ")
    everything = guest.a.host.run(*words, "-v").stdout.splitlines()
    assert [line for line in everything if line.startswith("  ok ")]
    assert everything[-1] == short[-1]


def test_free_huge_pages_are_asked_of_libvirt(pair: Pair) -> None:
    program = (
        "from vfmigrate.virt.connection import LibvirtConnection\n"
        "from vfmigrate.virt.capabilities import Capabilities\n"
        "with LibvirtConnection(None) as connection:\n"
        "    print(Capabilities(connection).libvirt().free_pages)\n"
    )
    told = pair.a.host.run("python3", "-c", program).stdout.strip()
    listed = pair.a.host.virsh("freepages", "--all")
    assert told.startswith("{"), told
    sizes = re.findall(r"^(\d+)KiB", listed, re.MULTILINE)
    assert sorted(ast.literal_eval(told)) == sorted({int(size) for size in sizes} - {4}), listed
