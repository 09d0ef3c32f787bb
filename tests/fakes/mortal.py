# SPDX-License-Identifier: GPL-2.0-or-later
"""A host in memory on which the daemon can be killed just before any one of its writes.

Each change that the daemon makes of the card, the switch, a network device or a claim's file is a write. Killed is no
Exception, so nothing in the daemon handles it; and once it was raised, whatever the daemon still writes on its way out
(as in a `finally`) raises it again, since a process that was killed writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Optional, cast

from tests.fakes.card import Card
from tests.fakes.claim_files import FaultyFiles
from tests.fakes.memory_host import MemoryHost
from tests.fakes.memory_links import MemoryLinks
from tests.fakes.memory_switch import MemorySwitch
from vfmigrate.converge.observe import Host
from vfmigrate.host.devlink import Devlink
from vfmigrate.host.links import Links
from vfmigrate.host.sysfs import Sysfs
from vfmigrate.ovs.openvswitch import OpenVswitch, PortSettings, SwitchPort


class Killed(BaseException):
    """The daemon was killed."""


class Fate:
    """Counts the writes of the daemon, and decides before which one it dies."""

    def __init__(self) -> None:
        self._left: Optional[int] = None
        self._dead = False

    @contextmanager
    def until(self, writes: Optional[int]) -> Iterator[None]:
        """The daemon does something, and dies after this many writes (None: it lives)."""
        self._left, self._dead = writes, False
        try:
            yield
        finally:
            self._left, self._dead = None, False

    def write(self) -> None:
        """The daemon is about to write."""
        if self._left is not None:
            self._dead = self._dead or self._left == 0
            self._left -= 1
        if self._dead:
            raise Killed


class MortalCard(Card):
    """A card whose every change is a write."""

    fate: Optional[Fate] = None

    @contextmanager
    def _changing(self, *what: str) -> Iterator[None]:
        if self.fate is not None:
            self.fate.write()
        with super()._changing(*what):
            yield


class MortalLinks(MemoryLinks):
    """Network devices whose every change is a write."""

    def __init__(self, card: Card, fate: Fate) -> None:
        super().__init__(card)
        self._fate = fate

    def set_up(self, ifindex: int, up: bool = True) -> None:
        self._fate.write()
        super().set_up(ifindex, up)

    def set_mtu(self, ifindex: int, mtu: int) -> None:
        self._fate.write()
        super().set_mtu(ifindex, mtu)


class MortalSwitch(MemorySwitch):
    """A switch whose every change of a port is a write."""

    def __init__(self, fate: Fate, *bridges: str) -> None:
        super().__init__(*bridges)
        self._fate = fate

    def plug(
        self,
        bridge: str,
        netdev: str,
        owner: str,
        settings: PortSettings,
        *,
        meanwhile: Optional[Callable[[], object]] = None,
    ) -> SwitchPort:
        self._fate.write()
        return super().plug(bridge, netdev, owner, settings, meanwhile=meanwhile)

    def unplug(self, netdev: str, owner: str) -> bool:
        self._fate.write()
        return super().unplug(netdev, owner)


class MortalFiles(FaultyFiles):
    """Files that are written in two steps, and removed in one."""

    def __init__(self, directory: Path, fate: Fate) -> None:
        super().__init__(directory)
        self._fate = fate

    def write(self, name: str, text: str) -> None:
        self._fate.write()
        try:
            self._fate.write()
        except Killed:
            (self.directory / f"{name}.new").write_text(text[: len(text) // 2])
            raise
        super().write(name, text)

    def remove(self, name: str) -> None:
        self._fate.write()
        super().remove(name)


class MortalHost(MemoryHost):
    """A host in memory with two physical functions, of which the first is for a pool, and what can be killed."""

    def __init__(self, *, vfs: int, bridge: str = "br-data") -> None:
        card = MortalCard(("0000:01:00.0", "0000:01:00.1"))
        super().__init__(vfs=vfs, bridge=bridge, card=card)
        other = card.pfs[1]
        card.autoprobe(other, "0")
        card.numvfs(other, "2")
        card.set_eswitch_mode(other, "switchdev")
        self.fate = card.fate = Fate()
        self.links = MortalLinks(card, self.fate)
        self.ovs = MortalSwitch(self.fate, bridge)
        self.host = Host(
            cast(Sysfs, self.sysfs),
            cast(Devlink, self.devlink),
            cast(Links, self.links),
            cast(OpenVswitch, self.ovs),
            self.host.vendors,
        )
