# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of the claims on a disk that can be full, read-only or protected, for all claims or for some."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional

from vfmigrate.claims.claim_files import ClaimFiles, failure


class FaultyFiles(ClaimFiles):
    """Fails as the kernel would: by the error numbers in `writes` and `removals`, of a claim by its VF or of all."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.directory = directory
        self.writes: dict[Optional[str], int] = {}
        self.removals: dict[Optional[str], int] = {}

    def fail(self, number: int, name: Optional[str] = None) -> None:
        """Let every write and removal fail with this error number, of the claim on one VF or of all."""
        self.writes[name] = self.removals[name] = number

    def heal(self) -> None:
        """Let nothing fail any more."""
        self.writes.clear()
        self.removals.clear()

    def write(self, name: str, text: str) -> None:
        self._check(self.writes, name, "write")
        super().write(name, text)

    def remove(self, name: str) -> None:
        self._check(self.removals, name, "remove")
        super().remove(name)

    def _check(self, faults: dict[Optional[str], int], name: str, verb: str) -> None:
        number = faults.get(name, faults.get(None))
        if number is not None:
            path = self.directory / f"{name}.json"
            raise failure(f"cannot {verb} the claim on {name}", path, OSError(number, os.strerror(number)))
