# SPDX-License-Identifier: GPL-2.0-or-later
"""The VFIO drivers of this kernel, and which of them fits a device best.

Owns the reading of `modules.alias`, where depmod writes what each VFIO driver declares to be for:
`alias vfio_pci:v0000VVVVd0000DDDDsv*sd*bc*sc*i* MODULE`. libvirt from 10.0 on chooses by the same lines
(virPCIDeviceFindBestVFIOVariant in src/util/virpci.c): of the lines that match, the one with fewest wildcards.
"""

from __future__ import annotations

import fnmatch
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from vfmigrate.os_errors import ABSENT, failed

_ALIAS = "alias vfio_pci:"


@dataclass(frozen=True)
class _Alias:
    pattern: str
    module: str

    @property
    def wildcards(self) -> int:
        return self.pattern.count("*")


@dataclass(frozen=True)
class _Table:
    aliases: tuple[_Alias, ...] = ()
    modules: frozenset[str] = frozenset()


class VfioVariants:
    """The VFIO drivers named in the `modules.alias` at a path; read again when depmod has written a new one.

    All methods raise HostError where the file cannot be read: which drivers there are is unknown then.
    """

    def __init__(self, modules_alias: Path) -> None:
        self._path = modules_alias
        self._lock = threading.Lock()
        self._read_at: Optional[tuple[int, int, int]] = None
        self._table = _Table()

    def best_module(self, modalias: str) -> Optional[str]:
        """Name the module for a device, by its modalias in sysfs (`pci:v0000VVVVd0000DDDD…`); None when none fits."""
        identity = modalias.split(":", 1)[-1]
        fitting = [alias for alias in self._current().aliases if fnmatch.fnmatchcase(identity, alias.pattern)]
        best = min(fitting, key=lambda alias: alias.wildcards, default=None)
        return best.module if best is not None else None

    def modules(self) -> frozenset[str]:
        """All modules that declare themselves VFIO drivers of PCI devices."""
        return self._current().modules

    def _current(self) -> _Table:
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            with self._lock:
                if version != self._read_at:
                    self._table = _parsed(self._path.read_text(encoding="utf-8", errors="replace"))
                    self._read_at = version
                return self._table
        except ABSENT:  # a kernel without modules
            return _Table()
        except OSError as error:
            raise failed(f"see which VFIO drivers this kernel has: read {self._path}", error) from None


def _parsed(text: str) -> _Table:
    aliases = tuple(_parse(line) for line in text.splitlines() if line.startswith(_ALIAS))
    return _Table(aliases, frozenset(alias.module for alias in aliases))


def _parse(line: str) -> _Alias:
    pattern, _, module = line[len(_ALIAS) :].rpartition(" ")
    return _Alias(pattern, module)
