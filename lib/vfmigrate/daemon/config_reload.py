# SPDX-License-Identifier: GPL-2.0-or-later
"""Knows whether the configuration changed on disk, and takes it over while guests and requests go on."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Callable, Optional

from vfmigrate import journal
from vfmigrate.config import configuration
from vfmigrate.config.configuration import Config
from vfmigrate.errors import ConfigError, HostError, Refused, VfmigrateError
from vfmigrate.journal import Journal

CHANGED = HostError("the configuration changed since vfmigrated read it", "systemctl reload vfmigrated")


def fingerprint(path: Path) -> str:
    """A digest of the files of a configuration, their names included; another one when a file cannot be read."""
    total = hashlib.sha256()
    try:
        files = configuration.files(path)
    except ConfigError as error:
        return str(error)
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            content = f"{error.errno}".encode()
        total.update(f"{file}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


class ConfigReload:
    """The daemon's configuration, and the files that it came from."""

    def __init__(self, path: Path, config: Config, read: str, log: Journal) -> None:
        """`read` is the fingerprint of the files from which `config` was read."""
        self._path = path
        self._config = config
        self._log = log
        # one reload at a time
        self._lock = threading.Lock()
        self._read = read

    def problem(self) -> Optional[VfmigrateError]:
        """That the files differ from what the daemon works with, or None."""
        return CHANGED if fingerprint(self._path) != self._read else None

    def explained(self, error: VfmigrateError) -> VfmigrateError:
        """The error with a remark where a configuration that was not taken over yet may explain it: a refusal."""
        if not isinstance(error, Refused) or self.problem() is None:
            return error
        return error.with_remedy(f"{error.remedy}; {CHANGED}" if error.remedy else str(CHANGED))

    def reload(self, then: Callable[[], None]) -> None:
        """Take over the configuration as it is on disk, and call `then`; one with an error changes nothing."""
        with self._lock:
            read = fingerprint(self._path)
            try:
                late = self._config.adopt(configuration.load(self._path))
            except VfmigrateError as error:
                self._log.failed("reload-refused", error, about="the configuration stays as it was")
                return
            self._read = read
        self._log.event("reloaded", f"took over the configuration; pools: {self._config.pool_names()}")
        if late:
            self._log.event(
                "reload-incomplete",
                f"a change of {' and '.join(late)} takes effect at the next start: systemctl restart vfmigrated",
                level=journal.WARNING,
            )
        then()
