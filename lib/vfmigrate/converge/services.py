# SPDX-License-Identifier: GPL-2.0-or-later
"""What nearly every part of the daemon works with, in one value that is handed to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

from vfmigrate.claims.claim_store import ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.converge.converger import Converger
from vfmigrate.converge.observe import Host
from vfmigrate.journal import Journal

#: does a piece of work, which has a name, in a thread of its own
Apart = Callable[[Callable[[], object], str], object]


@dataclass(frozen=True)
class HostServices:
    """The configuration, the host, its claims, and what changes the host by the claims."""

    config: Config
    host: Host
    store: ClaimStore
    converger: Converger
    log: Journal
