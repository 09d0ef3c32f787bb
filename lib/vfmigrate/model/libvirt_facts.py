# SPDX-License-Identifier: GPL-2.0-or-later
"""What libvirt reports of a host and of a guest's CPU, as far as a migration depends on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

#: bandwidth that libvirt reports when none was set, in MiB/s
UNLIMITED_MIBS = 1 << 40


@dataclass(frozen=True)
class LibvirtFacts:
    """A host's libvirt, asked through its connection."""

    hostname: str
    #: versions as libvirt counts: 10.3.2 is 10003002
    libvirt: int
    qemu: int
    #: networks by name: whether they run
    networks: dict[str, bool] = field(default_factory=dict)
    #: memory that could be had, in KiB
    available_kib: Optional[int] = None
    #: free huge pages by their size in KiB; None: not known
    free_pages: Optional[dict[int, int]] = None


@dataclass(frozen=True)
class DefinedGuest:
    """A guest as libvirt has it."""

    xml: str
    #: as virsh list shows it
    state: str
    running: bool


@dataclass(frozen=True)
class NameConflict:
    """A guest of the destination that has the name or the UUID of the guest that is to migrate."""

    #: the guest there, in words
    text: str
    #: it is the same guest, by name and UUID, and it runs there
    same: bool = False


@dataclass(frozen=True)
class CpuFacts:
    """libvirt's own comparison of the guest's CPU with what the destination can give."""

    #: None: it could not compare, and `problem` says why
    fits: Optional[bool]
    problem: str = ""
    #: the CPU that both hosts can give, as libvirt computes it; XML
    baseline: Optional[str] = None
