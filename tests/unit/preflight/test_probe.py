# SPDX-License-Identifier: GPL-2.0-or-later
"""How another host is reached, tried on the loopback of this one."""

from __future__ import annotations

import socket

from vfmigrate.preflight import probe
from vfmigrate.preflight.snapshot import AddressFacts


def test_a_refused_connection_counts_as_reachable() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert probe.observe("127.0.0.1", port) == AddressFacts(
            "127.0.0.1", ("127.0.0.1",), port, "reachable"
        )
        listener.listen()
        assert probe.reach("127.0.0.1", port, 2.0) == "reachable"


def test_a_port_that_does_not_answer_is_filtered() -> None:
    """A listener whose queue is full lets nobody in and says nothing, as a firewall that drops."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(address)
            assert probe.reach(address[0], address[1], 0.2) == "filtered"
        finally:
            for each in waiting:
                each.close()


def test_a_name_that_cannot_be_resolved_has_no_address() -> None:
    assert probe.observe("no-such-host.invalid", 49152) == AddressFacts("no-such-host.invalid")
    assert probe.resolve("a" * 300) is None
