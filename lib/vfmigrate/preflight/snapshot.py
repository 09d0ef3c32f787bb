# SPDX-License-Identifier: GPL-2.0-or-later
"""All that is known before a guest moves, of both hosts and of the way between them, and what is found in it. Pure.

`scout` fills a `Prospect`, `check` judges it. None is what nobody could tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

from vfmigrate.domain.migrating_guest import CarriedVf, Traveller
from vfmigrate.errors import VfmigrateError
from vfmigrate.model.host_facts import BridgeFacts, FileFacts, HostFacts
from vfmigrate.model.libvirt_facts import CpuFacts, LibvirtFacts
from vfmigrate.rules.findings import ERROR, WARNING, Finding

SOURCE = "source"
DESTINATION = "destination"
PAIR = "pair"

OK = "ok"


@dataclass(frozen=True)
class Side:
    """One of the two hosts."""

    side: str
    libvirt: LibvirtFacts
    #: what its vfmigrated tells, or why it does not
    facts: Optional[HostFacts] = None
    trouble: Optional[VfmigrateError] = None

    @property
    def name(self) -> str:
        """What the host calls itself."""
        return self.libvirt.hostname

    def bridge(self, name: str) -> Optional[BridgeFacts]:
        """A bridge that was asked for."""
        return next((each for each in self.facts.bridges if each.name == name), None) if self.facts else None

    def file(self, path: str) -> Optional[FileFacts]:
        """A file that was asked for."""
        return next((each for each in self.facts.files if each.path == path), None) if self.facts else None


@dataclass(frozen=True)
class AddressFacts:
    """How the source would reach the destination for the guest's memory; looked at on the source."""

    host: str
    #: None: the source cannot resolve the name
    addresses: Optional[tuple[str, ...]] = None
    port: int = 0
    #: what became of a connection to `port`: `reachable` (refused, as long as nothing migrates), `filtered`, or why not
    outcome: Optional[str] = None


@dataclass(frozen=True)
class Prospect:
    """A guest, where it is, and where it is to go."""

    guest: Traveller
    running: bool
    source: Side
    destination: Side
    vfs: tuple[CarriedVf, ...] = ()
    cpu: Optional[CpuFacts] = None
    #: why the destination cannot run the guest's machine type with its emulator
    machine_problem: Optional[str] = None
    #: what the destination has under the guest's name or UUID already, in words
    namesake: Optional[str] = None
    #: how far the destination's clock is ahead, and by how much that may be wrong, in seconds
    clock_ahead: Optional[float] = None
    clock_error: float = 0.0
    address: Optional[AddressFacts] = None
    #: MiB/s of memory that the guest writes anew
    dirty_mibs: Optional[float] = None
    #: MiB/s that the migration may use; None: as much as there is
    bandwidth_mibs: Optional[int] = None
    #: disks are copied along (--copy-storage-all)
    copies_storage: bool = False


@dataclass(frozen=True)
class Line:
    """One thing that was looked at, and how it is."""

    side: str
    #: what was looked at, a short name that stays
    check: str
    severity: str
    text: str
    remedy: str = ""
    #: lines to show below, such as XML
    detail: str = ""

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return dict(self.__dict__)


def settled(side: str, check: str, fine: str, found: Iterable[Finding]) -> list[Line]:
    """What was found, or one line that says what is fine."""
    lines = [Line(side, check, each.severity, each.text, each.remedy) for each in found]
    return lines or [Line(side, check, OK, fine)]


def error(text: str, remedy: str = "") -> Finding:
    """Something with which the migration fails, or the guest is worse off."""
    return Finding(ERROR, text, remedy)


def warning(text: str, remedy: str = "") -> Finding:
    """Something to know before."""
    return Finding(WARNING, text, remedy)


def refusal(failure: VfmigrateError) -> Finding:
    """A refusal of the hook's, found before it refuses."""
    return Finding(ERROR, failure.problem, failure.remedy)
