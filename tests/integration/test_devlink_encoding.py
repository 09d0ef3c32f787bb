# SPDX-License-Identifier: GPL-2.0-or-later
"""`host.devlink` sends, byte for byte, what the `devlink` tool sends for the same request.

The tool is that of the test hosts' root (6.2 is the first with `migratable`), run with the root's loader and
libraries; its netlink sockets are connected to the fake card.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Callable

import pytest

from tests.fakes import preload
from tests.fakes.card import Card
from tests.fakes.devlink_server import DevlinkServer
from tests.integration import roots
from vfmigrate.host.devlink import Devlink
from vfmigrate.model.pci import PciAddress

PF = PciAddress.parse("0000:e1:00.0")
SECOND_PF = PciAddress.parse("0000:e1:00.1")
MAC = "52:54:00:12:34:56"

REQUESTS: dict[str, Callable[[Devlink], object]] = {
    "dev eswitch show pci/0000:e1:00.0": lambda door: door.eswitch_mode(PF),
    "dev eswitch set pci/0000:e1:00.0 mode legacy": lambda door: door.set_eswitch_mode(PF, "legacy"),
    "dev eswitch set pci/0000:e1:00.1 mode switchdev": lambda door: door.set_eswitch_mode(
        SECOND_PF, "switchdev"
    ),
    "port show pci/0000:e1:00.0": lambda door: door.ports(PF),
    "port function set pci/0000:e1:00.0/1 hw_addr " + MAC: lambda door: door.set_port_function(
        PF, 1, hw_addr=MAC
    ),
    "port function set pci/0000:e1:00.0/1 migratable enable": lambda door: door.set_port_function(
        PF, 1, migratable=True
    ),
    "port function set pci/0000:e1:00.0/2 migratable disable": lambda door: door.set_port_function(
        PF, 2, migratable=False
    ),
    f"port function set pci/0000:e1:00.0/2 hw_addr {MAC} migratable enable": lambda door: (
        door.set_port_function(PF, 2, hw_addr=MAC, migratable=True)
    ),
    "dev info pci/0000:e1:00.0": lambda door: door.info(PF),
}


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return preload.build("genl_shim", tmp_path_factory.mktemp("shim"))


@pytest.fixture
def card() -> Card:
    """Two PFs, the first in switchdev mode with two unbound VFs."""
    card = Card((str(PF), str(SECOND_PF)))
    card.autoprobe(str(PF), "0")
    card.numvfs(str(PF), "2")
    card.set_eswitch_mode(str(PF), "switchdev")
    return card


def run_tool(arguments: str, shim: Path, fake: Path) -> str:
    """Run `devlink` on the fake card; returns what it printed."""
    root = roots.first_root()
    loader = [f"{root}/lib64/ld-linux-x86-64.so.2", "--library-path", f"{root}/usr/lib/x86_64-linux-gnu"]
    command = [*loader, f"{root}/usr/sbin/devlink", *arguments.split()]
    environment = {**os.environ, "LD_PRELOAD": str(shim), "FAKE_GENL": str(fake)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", REQUESTS)
def test_devlink_messages_are_those_of_the_devlink_tool(
    arguments: str, card: Card, shim: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "devlink"
    with DevlinkServer(card, fake) as server:
        run_tool(arguments, shim, fake)
        (told_by_tool,) = server.requests
        server.requests.clear()
        door = Devlink(connect=server.connect)
        REQUESTS[arguments](door)
        door.close()
        told_by_door, *verification = server.requests
    assert told_by_door == told_by_tool
    assert len(verification) == int("function set" in arguments)  # it looks whether the card did so


def test_the_devlink_tool_shows_the_changes(card: Card, shim: Path, tmp_path: Path) -> None:
    fake = tmp_path / "devlink"
    with DevlinkServer(card, fake) as server:
        door = Devlink(connect=server.connect)
        door.set_port_function(PF, 2, hw_addr=MAC, migratable=True)
        door.close()
        shown = run_tool("port show pci/0000:e1:00.0/2", shim, fake)
    assert f"hw_addr {MAC} migratable enable" in shown
