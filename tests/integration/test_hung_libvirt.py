# SPDX-License-Identifier: GPL-2.0-or-later
"""The command beside a libvirtd of the other host that is stopped (SIGSTOP): it ends, says why, and obeys Ctrl-C."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.guests import Guest, Vf
from tests.integration.hosts import wait_for
from tests.integration.namespaces import signal_child
from tests.integration.pair import Node, Pair
from tests.patience import PATIENCE
from vfmigrate.errors import Cancelled, Unreachable

pytestmark = pytest.mark.hosts

LIBVIRTD = "/run/libvirtd.pid"
URI = "qemu+tcp://host-b/system"
VERBS = {
    "check": ("check", "g", URI),
    "migrate": ("migrate", "g", URI),
    "evacuate": ("evacuate", "--dry-run", URI),
    "failover": ("failover", "show", "-c", URI, "g"),
}
#: seconds after which a connection is given up: that is opened, and that was open (connection.py)
OPENING_S, KEEP_ALIVE_S = 30.0, 35.0
SLACK_S = 5.0

#: asks for guests again and again
ASKING = """\
import sys
from vfmigrate.errors import VfmigrateError
from vfmigrate.virt.connection import LibvirtConnection

with LibvirtConnection(sys.argv[1]) as connection:
    print("connected", flush=True)
    try:
        while True:
            connection.running()
    except VfmigrateError as error:
        print(type(error).__name__, error, flush=True)
"""


@contextmanager
def begun(node: Node, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command that runs on a host; it is killed if it still does in the end."""
    with node.host.spawn(*words) as command:
        try:
            yield command
        finally:
            if command.poll() is None:
                signal_child(command, "KILL")


def is_connecting(node: Node) -> bool:
    """Whether the command has a connection to the other host's libvirtd."""
    return "10.77.0.2:16509" in node.host.run("ss", "-tn", "state", "established").stdout


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_ends_a_command_whose_libvirt_does_not_answer(ready: Pair, verb: str) -> None:
    """It had no effect: nothing can interrupt a call of libvirt's library."""
    a, b = ready.a, ready.b
    a.start_guest(Guest("g", [Vf(a.vf(1), "52:54:00:00:00:02", vlan=42)]))
    with b.host.halted(LIBVIRTD), begun(a, "vfmigrate", *VERBS[verb]) as command:
        wait_for("the command to connect", lambda: is_connecting(a), 20)
        signal_child(command, "INT")
        command.communicate(timeout=SLACK_S * PATIENCE)
    assert command.returncode == Cancelled.exit_code


@pytest.mark.long
@pytest.mark.parametrize("verb", VERBS)
def test_a_command_says_which_libvirt_does_not_answer(ready: Pair, verb: str) -> None:
    a, b = ready.a, ready.b
    a.start_guest(Guest("g", [Vf(a.vf(1), "52:54:00:00:00:02", vlan=42)]))
    with b.host.halted(LIBVIRTD), begun(a, "vfmigrate", *VERBS[verb]) as command:
        _, error = command.communicate(timeout=OPENING_S + SLACK_S * PATIENCE)
    assert command.returncode == Unreachable.exit_code
    assert f"libvirt at {URI} did not answer" in error


@pytest.mark.long
def test_a_connection_to_a_libvirt_that_stops_answering_is_given_up(ready: Pair) -> None:
    words = ("env", "PYTHONPATH=/usr/share/vfmigrate", "python3", "-c", ASKING, URI)
    with begun(ready.a, *words) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "connected\n"
        with ready.b.host.halted(LIBVIRTD):
            output, error = client.communicate(timeout=KEEP_ALIVE_S + SLACK_S * PATIENCE)
    assert output.startswith(f"Unreachable the connection to libvirt at {URI} was lost"), (output, error)
