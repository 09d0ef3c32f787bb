# SPDX-License-Identifier: GPL-2.0-or-later
"""What is known of guest, hosts and path before a migration, and the results of the checks. Pure.

`collect` fills a `Snapshot`, `report` judges it. None is a value that could not be collected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

from vfmigrate.domain.migrating_guest import GuestVf, MigratingGuest
from vfmigrate.errors import VfmigrateError
from vfmigrate.model.host_facts import BridgeFacts, FileFacts, HostFacts
from vfmigrate.model.libvirt_facts import CpuFacts, LibvirtFacts, NameConflict
from vfmigrate.rules.findings import ERROR, WARNING, Finding

SOURCE = "source"
DESTINATION = "destination"
PAIR = "pair"

OK = "ok"


@dataclass(frozen=True)
class HostSnapshot:
    """One of the two hosts."""

    side: str
    libvirt: LibvirtFacts
    #: the facts from its vfmigrated, or why there are none
    facts: Optional[HostFacts] = None
    trouble: Optional[VfmigrateError] = None

    @property
    def name(self) -> str:
        """The host's own name."""
        return self.libvirt.hostname

    def bridge(self, name: str) -> Optional[BridgeFacts]:
        """A bridge of the host, if it was asked about."""
        return next((each for each in self.facts.bridges if each.name == name), None) if self.facts else None

    def file(self, path: str) -> Optional[FileFacts]:
        """A file of the host, if it was asked about."""
        return next((each for each in self.facts.files if each.path == path), None) if self.facts else None


@dataclass(frozen=True)
class AddressFacts:
    """How the source reaches the destination's migration port, tested on the source."""

    host: str
    #: None: the name cannot be resolved
    addresses: Optional[tuple[str, ...]] = None
    port: int = 0
    #: result of a connection to `port`: `reachable` (refused counts, as nothing listens yet), `filtered`, or the error
    outcome: Optional[str] = None


@dataclass(frozen=True)
class Snapshot:
    """A guest, its source and its destination."""

    guest: MigratingGuest
    running: bool
    source: HostSnapshot
    destination: HostSnapshot
    vfs: tuple[GuestVf, ...] = ()
    cpu: Optional[CpuFacts] = None
    #: why the destination cannot run the guest's machine type with its emulator
    machine_problem: Optional[str] = None
    #: the destination's guest that has the same name or UUID
    name_conflict: Optional[NameConflict] = None
    #: how far the destination's clock is ahead, and the uncertainty of that, in seconds
    clock_ahead: Optional[float] = None
    clock_error: float = 0.0
    address: Optional[AddressFacts] = None
    #: MiB/s of memory that the guest dirties
    dirty_mibs: Optional[float] = None
    #: bandwidth limit of the migration in MiB/s; None: no limit
    bandwidth_mibs: Optional[int] = None
    #: the longest downtime that libvirt allows the guest's migration, in ms
    downtime_ms: Optional[int] = None
    #: disks are copied (--copy-storage-all)
    copies_storage: bool = False


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    side: str
    #: short, stable name of the check
    check: str
    severity: str
    text: str
    remedy: str = ""
    #: lines to show below, such as XML
    detail: str = ""

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return dict(self.__dict__)

    def problem(self) -> dict[str, str]:
        """The part of it that lists of problems have."""
        return {"severity": self.severity, "text": self.text, "remedy": self.remedy}


def as_results(side: str, check: str, fine: str, found: Iterable[Finding]) -> list[CheckResult]:
    """The findings of a check, or the result `ok` with the text `fine` if there are none."""
    results = [CheckResult(side, check, each.severity, each.text, each.remedy) for each in found]
    return results or [CheckResult(side, check, OK, fine)]


def error(text: str, remedy: str = "") -> Finding:
    """A finding that makes the migration fail, or by which the guest loses something, such as its network."""
    return Finding(ERROR, text, remedy)


def warning(text: str, remedy: str = "") -> Finding:
    """A finding that does not block the migration."""
    return Finding(WARNING, text, remedy)


def refusal(failure: VfmigrateError) -> Finding:
    """A finding for what the hook would refuse."""
    return Finding(ERROR, failure.problem, failure.remedy)
