# SPDX-License-Identifier: GPL-2.0-or-later
"""A host in memory with the hook operations on it, and guests for it."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Optional

from tests.fakes.doors import MemoryHost
from vfmigrate.claims.claim_store import ClaimStore
from vfmigrate.config.configuration import Config, Pool
from vfmigrate.converge.converger import Converger
from vfmigrate.daemon.hook_handler import HookOperations
from vfmigrate.journal import Journal
from vfmigrate.model.pci import PciAddress

PF = PciAddress(0, 1, 0, 0)


POOL = Pool("data", (PF,), "br-data", vlans=frozenset({42, 43}))


def guest(number: int, *vfs: PciAddress, marks: str = "pool='data' vlan='42'", extra: str = "") -> str:
    """A guest with interfaces on these VFs, the nth with MAC …:<number>:<n>, and a mark for each."""
    interfaces, marked = "", ""
    for index, vf in enumerate(vfs):
        mac = f"52:54:00:00:{number:02x}:{index:02x}"
        marked += f"<v:vf mac='{mac}' {marks}/>"
        interfaces += (
            f"<interface type='hostdev' managed='yes'><mac address='{mac}'/><source><address type='pci' "
            f"domain='0x{vf.domain:04x}' bus='0x{vf.bus:02x}' slot='0x{vf.slot:02x}' function='0x{vf.function:x}'/>"
            "</source></interface>"
        )
    metadata = f"<metadata><v:vfs xmlns:v='urn:vfmigrate:domain:1'>{marked}</v:vfs></metadata>"
    uuid = f"00000000-0000-4000-8000-{number:012d}"
    return (
        f"<domain><name>guest{number}</name><uuid>{uuid}</uuid>{metadata}"
        f"<devices>{interfaces}{extra}</devices></domain>"
    )


ELSEWHERE = PciAddress(0, 0x81, 0, 2)


class Rig:
    """A host in memory with the operations on it."""

    def __init__(
        self,
        directory: Path,
        memory: MemoryHost,
        pool: Pool = POOL,
        make_store: Callable[[Path, Callable[[], float]], ClaimStore] = ClaimStore,
    ) -> None:
        self.memory = memory
        self.now = 1000.0
        self.store = make_store(directory / "claims", lambda: self.now)
        config = Config({pool.name: pool})
        self.converger = Converger(memory.host, config, self.store)
        self.started: list[str] = []
        self.log = Journal(directory / "no-journal")
        self.operations = HookOperations(
            config, memory.host, self.store, self.converger, self.log, on_started=self.started.append
        )

    def call(self, operation: str, xml: str, extra: str = "-") -> Optional[str]:
        return self.operations.handle(operation, "begin", extra, xml)

    def run(self, xml: str) -> None:
        for operation in ("prepare", "start", "started"):
            assert self.call(operation, xml) is None

    def arrive(self, xml: str) -> str:
        rewritten = self.call("migrate", xml)
        assert rewritten is not None
        self.run(rewritten)
        return rewritten

    def leave(self, xml: str, reason: str = "migrated") -> None:
        self.call("stopped", xml)
        self.call("release", xml, reason)


MakeRig = Callable[..., Rig]


STANDBY = (
    "<interface type='bridge'><mac address='52:54:00:00:01:00'/><source bridge='br-data'/><vlan><tag id='42'/></vlan>"
    "<virtualport type='openvswitch'/><model type='virtio'/><teaming type='persistent'/><alias name='ua-x'/>"
    "</interface>"
)


def paired(vf: PciAddress, standby: str = STANDBY, marks: str = "pool='data' vlan='42'") -> str:
    """A guest whose VF has a standby."""
    transient = "</source><teaming type='transient' persistent='ua-x'/>"
    return (
        guest(1, vf, marks=marks)
        .replace("</source>", transient)
        .replace("</devices>", f"{standby}</devices>")
    )
