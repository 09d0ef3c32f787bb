# SPDX-License-Identifier: GPL-2.0-or-later
"""Forty users with all the connections that they may have, and floods of messages in libvirt's network metadata.

Meanwhile root's requests are answered, and afterwards nothing is left: no connection, no message.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.integration.hosts import wait_for
from tests.integration.pair import Node, start_products, started_pair
from tests.integration.product import SOCKET
from tests.integration.test_remote import FLOOD, NETWORK
from tests.soak.crowd import resources
from tests.soak.tally import FAULTS, Tally
from tests.testbed import images
from vfmigrate.errors import VfmigrateError
from vfmigrate.rpc import protocol

USERS, CONNECTIONS = 40, 32
MESSAGES, BYTES = 400, 15_000
#: seconds in which root is to be answered, whatever others do
ROOT_SECONDS = 2.0

#: each user opens connections, sends half a request on each, and holds them until its standard input ends
USERS_AT_ONCE = """
import os, socket, sys
held, crowd = [], []
for uid in range(60000, 60000 + int(sys.argv[2])):
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setuid(uid)
        for _ in range(int(sys.argv[3])):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(sys.argv[1])
            try:
                connection.sendall(b'{"version": 1, "requ')
            except OSError:
                pass
            held.append(connection)
        os.write(writing, b"x")
        sys.stdin.read()
        os._exit(0)
    os.read(reading, 1)
print("all there", flush=True)
sys.stdin.read()
"""


def ping(node: Node, tally: Tally, when: str) -> None:
    """Root's request, which must be answered in time."""
    begun = time.monotonic()
    tally.tried += 1
    try:
        protocol.ask("ping", {}, path=Path(os.fspath(node.host.path(SOCKET))), timeout=ROOT_SECONDS)
    except VfmigrateError as error:
        tally.fail(f"root is not answered {when}: {error}")
    slowest = tally.measured.get("slowest_root_ms", 0)
    tally.measured["slowest_root_ms"] = max(slowest, round(1000 * (time.monotonic() - begun)))


def crowd(node: Node, tally: Tally) -> None:
    """Forty users at the daemon's socket."""
    command = ("/usr/bin/python3", "-IS", "-c", USERS_AT_ONCE, SOCKET, str(USERS), str(CONNECTIONS))
    inside = node.host.namespace.command(*command)
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as users:
        assert users.stdin is not None
        assert users.stdout is not None
        if users.stdout.readline() != "all there\n":
            tally.fail("the users could not connect")
        for _ in range(20):
            ping(node, tally, f"beside {USERS} users with {CONNECTIONS} connections each")
        users.stdin.close()


def messages(node: Node, prefix: str, tally: Tally, *, running: bool) -> None:
    """A flood of messages in the metadata of the pool's network, with the daemon or while none runs."""
    tally.tried += MESSAGES
    if not running:
        node.product.stop()
    node.host.run("python3", "-c", FLOOD, prefix, str(MESSAGES), str(BYTES))
    if not running:
        node.product.start()
    begun = time.monotonic()
    ping(node, tally, f"during a flood of {prefix}")

    def gone() -> bool:
        xml = node.host.run("virsh", "net-dumpxml", NETWORK, check=False).stdout
        return "<uuid>" in xml and "urn:vfmigrate:a" not in xml

    try:
        wait_for("the messages to be gone", gone, 120.0)
    except TimeoutError as error:
        tally.fail(f"{prefix}, daemon {'running' if running else 'stopped'}: {error}")
    slowest = tally.measured.get("slowest_removal_s", 0.0)
    tally.measured["slowest_removal_s"] = max(slowest, round(time.monotonic() - begun, 1))


def run() -> Tally:
    """Both attacks, on a host of their own."""
    tally = Tally("forty hostile users, and floods of messages", FAULTS)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as place,
        started_pair(images.host_root(), Path(place)) as pair,
    ):
        pair.reset()
        start_products(pair)
        node = pair.b
        node.host.run("vfmigrate", "provision")
        before, at_first = node.state(), resources(node)
        crowd(node, tally)
        for prefix in ("urn:vfmigrate:ask:", "urn:vfmigrate:answer:", "urn:vfmigrate:ask:malformed-"):
            for running in (True, False):
                messages(node, prefix, tally, running=running)
        at_last = resources(node)
        if at_last["files"] > at_first["files"] + 5:
            tally.fail(f"the daemon has {at_last['files']} open files, and had {at_first['files']}")
        after = node.state()
        if after != before:
            tally.fail(f"the host is not as before: {after} instead of {before}")
        if "vfmigrated has a bug" in node.product.log():
            tally.fail("the daemon told of a bug")
        tally.measured.update(at_first=at_first, at_last=at_last)
        pair.reset()
    tally.seconds = round(time.monotonic() - begun, 1)
    return tally
