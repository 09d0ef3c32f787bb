# SPDX-License-Identifier: GPL-2.0-or-later
"""The releases of Debian that test hosts run, from the oldest to the newest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Release:
    """A release of Debian, or a release with the newer packages of another suite."""

    name: str
    codename: str
    #: a suite whose packages are installed in place of the release's own
    preferred: str = ""
    #: whether lists are used that are older than the archive says they are valid. A mirror can stop to follow a release
    #: that is in development.
    outdated: bool = False
    #: the newest machine type that its QEMU has
    machine: str = ""
    #: whether it has /bin and /usr/bin as two directories, which no host of today has
    split_usr: bool = False


# The library floor: what Enterprise Linux 9 has of Python, lxml and pyroute2.
BULLSEYE = Release("bullseye", "bullseye", machine="pc-q35-5.2", split_usr=True)
BOOKWORM = Release("bookworm", "bookworm", machine="pc-q35-7.2")
TRIXIE = Release("trixie", "trixie", machine="pc-q35-10.0")
TRIXIE_BACKPORTS = Release("trixie-backports", "trixie", preferred="trixie-backports", machine="pc-q35-11.1")
FORKY = Release("forky", "forky", outdated=True, machine="pc-q35-11.1")

BY_AGE = (BULLSEYE, BOOKWORM, TRIXIE, TRIXIE_BACKPORTS, FORKY)
