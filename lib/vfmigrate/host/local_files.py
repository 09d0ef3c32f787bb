# SPDX-License-Identifier: GPL-2.0-or-later
"""Files and bridges of a host that a guest needs, libvirt's hook and its configuration.

It only reads; its root is a parameter.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Callable, Optional

from vfmigrate import uninterruptible
from vfmigrate.deadline import Door
from vfmigrate.domain.storage_xml import KnownStorage
from vfmigrate.errors import HostError
from vfmigrate.model.host_facts import BridgeFacts, FileFacts, MigrationFacts, digest
from vfmigrate.os_errors import ABSENT, exists, failed

HOOK = "etc/libvirt/hooks/qemu.d/50-vfmigrate"
QEMU_CONF = "etc/libvirt/qemu.conf"

_SETTING = re.compile(r'^\s*(migration_\w+)\s*=\s*"?([^"\s#]*)"?', re.MULTILINE)
_NETDEV = re.compile(r"[^\s/]{1,15}")
# Hidden from the daemon by its unit (ProtectHome=, PrivateTmp=): whether a file exists there is unknown.
_HIDDEN = tuple(f"/{name}/" for name in ("home", "root", "run/user", "tmp", "var/tmp"))
# The most files in the directory of a storage pool; of a larger one nothing is reported.
_MOST_NAMES = 20000
_ESCAPE = re.compile(r"\\([0-7]{3})")
# A file system of another host may hang for ever.
_FILES = Door("a file system", "see findmnt")
_LOOK_SECONDS = 5.0


class LocalFiles:
    """Observes a host below its root directory; `is_switch_bridge` recognizes the bridges of Open vSwitch."""

    def __init__(self, is_switch_bridge: Callable[[str], bool], root: Path = Path("/")) -> None:
        self._is_switch_bridge = is_switch_bridge
        self._root = root

    def hook(self) -> bool:
        """Whether libvirt finds our hook, an executable file. Raises HostError where that cannot be seen."""
        try:
            return bool((self._root / HOOK).stat().st_mode & stat.S_IXUSR)
        except ABSENT:
            return False
        except OSError as error:
            raise failed(f"see whether libvirt finds vfmigrate's hook: read /{HOOK}", error) from None

    def migration(self) -> MigrationFacts:
        """How libvirt is configured to receive migrations; its defaults without the file.

        Raises HostError when the file cannot be read.
        """
        try:
            text = (self._root / QEMU_CONF).read_text(encoding="utf-8", errors="replace")
        except ABSENT:
            return MigrationFacts()
        except OSError as error:
            raise failed(
                f"see how libvirt is configured to receive migrations: read /{QEMU_CONF}", error
            ) from None
        settings = dict(_SETTING.findall(text))

        def number(key: str, otherwise: int) -> int:
            value = settings.get(key, "")
            return int(value) if value.isdigit() and len(value) <= 5 else otherwise

        usual = MigrationFacts()
        return MigrationFacts(
            host=settings.get("migration_host") or None,
            port_min=number("migration_port_min", usual.port_min),
            port_max=number("migration_port_max", usual.port_max),
        )

    def bridges(self, names: Iterable[str]) -> Iterator[BridgeFacts]:
        """Which of these bridges exist, and of what kind.

        Raises Unreachable when Open vSwitch does not answer, HostError where a bridge cannot be seen.
        """
        for name in names:
            if not _NETDEV.fullmatch(name):
                yield BridgeFacts(name, None)
            elif exists(self._root / "sys/class/net" / name / "bridge"):
                yield BridgeFacts(name, "linux")
            else:
                yield BridgeFacts(name, "openvswitch" if self._is_switch_bridge(name) else None)

    def files(
        self, salt: str, files: Sequence[str], directories: Sequence[str], known: KnownStorage
    ) -> Iterator[FileFacts]:
        """Which of these files exist: given by the digests of their paths, and of the directories that they are in.

        Only what libvirt of this host names anyway is looked at: the disks of its domains, and the files in the
        directories of its storage pools. Of anything else nothing is known.
        """
        paths = {digest(salt, path): path for path in known.disks}
        targets = {digest(salt, path): path for path in known.directories}
        listed = {}
        for each in {targets[each] for each in directories if each in targets}:
            names = self._names(each)
            listed[digest(salt, each)] = names is not None
            paths.update({digest(salt, f"{each}/{name}"): f"{each}/{name}" for name in names or ()})
        mounts = self._mounts()
        for file, directory in zip(files, directories):
            if file in paths:
                yield replace(self._file(paths[file], mounts), path=file)
            else:
                yield FileFacts(file, exists=False if listed.get(directory) else None)

    def _names(self, directory: str) -> Optional[list[str]]:
        """The names in a directory; None when it is hidden from the daemon, cannot be read or has too many."""
        if f"{directory}/".startswith(_HIDDEN):
            return None
        try:
            names = uninterruptible.call(_FILES, _LOOK_SECONDS, self._listed, directory)
        except (OSError, HostError):
            return None
        return names if len(names) <= _MOST_NAMES else None

    def _file(self, path: str, mounts: dict[str, str]) -> FileFacts:
        if not path.startswith("/") or "\0" in path or path.startswith(_HIDDEN):
            return FileFacts(path)
        try:
            real, found = uninterruptible.call(_FILES, _LOOK_SECONDS, self._look, path)
        except (OSError, HostError) as error:
            absent = isinstance(error, ABSENT)
            return FileFacts(path, exists=False if absent else None)
        kind = "block" if stat.S_ISBLK(found.st_mode) else "file" if stat.S_ISREG(found.st_mode) else "other"
        return FileFacts(
            path,
            exists=True,
            kind=kind,
            filesystem=filesystem(mounts, real) if kind == "file" else None,
            size=found.st_size if kind == "file" else None,
        )

    def _listed(self, directory: str) -> list[str]:
        with os.scandir(self._root / directory.lstrip("/")) as entries:
            return [entry.name for entry in itertools.islice(entries, _MOST_NAMES + 1)]

    def _look(self, path: str) -> tuple[str, os.stat_result]:
        real = os.path.realpath(self._root / path.lstrip("/"))
        return real, Path(real).stat()

    def _mounts(self) -> dict[str, str]:
        try:
            text = (self._root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return {}
        return mounts(text)


def mounts(mountinfo: str) -> dict[str, str]:
    """The type of the file system at each mount point (proc_pid_mountinfo(5)); the last mounted is on top."""
    found = {}
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        words = fields.split(" ")
        if len(words) > 4 and rest:
            point = _ESCAPE.sub(lambda octal: chr(int(octal.group(1), 8)), words[4])
            found[point] = rest.split(" ")[0]
    return found


def filesystem(mounted: dict[str, str], path: str) -> Optional[str]:
    """The type of the file system that a path is on."""
    for directory in (path, *map(str, Path(path).parents)):
        if directory in mounted:
            return mounted[directory]
    return None
