# SPDX-License-Identifier: GPL-2.0-or-later
"""The choice of an announce method, and a second one in a module of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.fakes.memory_host import MemoryHost
from vfmigrate.announce import method, methods
from vfmigrate.announce.method import BridgePort
from vfmigrate.announce.methods.packet_out_normal import PacketOutNormal

PORT = BridgePort("br-data", 7)

_OTHER = """
from vfmigrate.announce.method import Method
sent = []
class Other(Method):
    def suits(self, host, port):
        return port.bridge == "br-int"
    def send(self, host, port, mac, vlans):
        sent.append((port.bridge, mac, tuple(vlans)))
METHOD = Other()
"""


@pytest.fixture
def _another(tmp_path: Path) -> Iterator[None]:
    """A module beside the others, found by being there."""
    (tmp_path / "another.py").write_text(_OTHER)
    methods.__path__.append(str(tmp_path))
    method.known.cache_clear()
    yield
    methods.__path__.remove(str(tmp_path))
    method.known.cache_clear()


def test_a_plain_bridge_gets_the_default_method() -> None:
    assert isinstance(method.method_for(MemoryHost().host, PORT), PacketOutNormal)


@pytest.mark.usefixtures("_another")
def test_a_method_is_found_by_its_module_and_used_where_it_suits() -> None:
    host = MemoryHost().host
    other = method.method_for(host, BridgePort("br-int", 7))
    other.send(host, BridgePort("br-int", 7), "52:54:00:00:00:01", (0,))
    from vfmigrate.announce.methods import another  # type: ignore[attr-defined]  # noqa: PLC0415 - made by the fixture

    assert another.sent == [("br-int", "52:54:00:00:00:01", (0,))]
    assert isinstance(method.method_for(host, PORT), PacketOutNormal)


def test_one_frame_is_sent_for_each_vlan() -> None:
    memory = MemoryHost()
    sent: list[bytes] = []

    class Switch:
        def packet_out(self, bridge: str, ofport: int, frame: bytes) -> None:
            assert (bridge, ofport) == (PORT.bridge, PORT.ofport)
            sent.append(frame)

    host = replace(memory.host, ovs=cast(Any, Switch()))
    PacketOutNormal().send(host, PORT, "52:54:00:00:00:01", (0, 42))
    assert [frame[12:14].hex() for frame in sent] == ["8035", "8100"]
