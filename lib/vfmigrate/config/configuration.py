# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: `/etc/vfmigrate/vfmigrate.conf` and `vfmigrate.conf.d/*.conf` beside it.

INI files, read in that order; later values replace earlier ones. A `[pool NAME]` names physical functions whose VFs
guests can get; pools of the same name on two hosts reach the same network. Nothing is guessed: an unknown section or
key and an impossible value are errors that name file, section and key.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Optional

from vfmigrate.config import setting
from vfmigrate.config.libvirt_access import LibvirtAccess
from vfmigrate.config.pool import TAKE, Pool
from vfmigrate.config.setting import key as _key
from vfmigrate.errors import ConfigError, HostError, InputError
from vfmigrate.model.pci import PciAddress
from vfmigrate.os_errors import ABSENT, DENIED_REMEDY, exists

DEFAULT_PATH = Path("/etc/vfmigrate/vfmigrate.conf")

# characters of a file that an error quotes
_LONGEST_QUOTE = 400
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass
class Config:
    """The whole configuration: the pools, the access to libvirt, and the keys of the section [daemon].

    The daemon's parts share one and read it at each use, so that `adopt` changes it for all of them.
    """

    pools: Mapping[str, Pool] = field(default_factory=dict)
    libvirt: LibvirtAccess = field(default_factory=LibvirtAccess)
    ovsdb: str = field(
        default="unix:/run/openvswitch/db.sock",
        metadata=_key(
            "ovsdb", setting.TEXT, "The socket of Open vSwitch's database, in the notation of Open vSwitch."
        ),
    )
    claim_timeout: int = field(
        default=120,
        metadata=_key(
            "claim_timeout",
            setting.number(5, 86400),
            "Seconds until the reservation of a VF expires when the guest does not arrive.",
        ),
    )
    migrating_wait: int = field(
        default=30,
        metadata=_key(
            "migrating_wait",
            setting.number(0, 45),
            "Seconds for which a migration to this host waits while max_migrating VFs of a physical function "
            "migrate; then it is refused.",
        ),
    )
    reconcile_interval: int = field(
        default=30,
        metadata=_key(
            "reconcile_interval",
            setting.number(1, 86400),
            "Seconds between two reconciliations of the host with the claims.",
        ),
    )
    readers: frozenset[str] = field(
        default=frozenset(),
        metadata=_key(
            "readers",
            setting.NAMES,
            "Users besides root who can read the state of the daemon.",
            otherwise="none",
        ),
    )
    clients: frozenset[str] = field(
        default=frozenset(),
        metadata=_key(
            "clients",
            setting.NAMES,
            "Users besides root who can reserve free VFs for guests and release those that no guest has, as oVirt's "
            "vdsm does. They can also read the state of the daemon.",
            otherwise="none",
        ),
    )

    def adopt(self, new: Config) -> list[str]:
        """Take over another configuration; returns the changed keys that take effect at the next start only."""
        late = []
        for target in fields(self):
            before, after = getattr(self, target.name), getattr(new, target.name)
            if before != after and target.name == "libvirt":
                late.append("[libvirt]")
            elif before != after and target.name == "ovsdb":
                late.append("ovsdb")
            else:
                setattr(self, target.name, after)
        return late

    def pool_names(self) -> str:
        """The names of the pools, for the log."""
        return ", ".join(sorted(self.pools)) or "none (see vfmigrate.conf(5))"

    def pool_of(self, pf: PciAddress) -> Optional[Pool]:
        """The pool that names this physical function, or None when no pool does."""
        return next((pool for pool in self.pools.values() if pf in pool.pfs), None)

    def pool_of_network(self, network: str) -> Optional[Pool]:
        """The pool whose VFs this libvirt network has, or None when no pool has a network of this name."""
        return next((pool for pool in self.pools.values() if pool.libvirt_network == network), None)


def _error_in(file: Optional[Path], problem: str, remedy: str = "") -> ConfigError:
    """An error in a file; of a long text it quotes only the beginning."""
    text = problem if len(problem) <= _LONGEST_QUOTE else f"{problem[:_LONGEST_QUOTE]}…"
    return ConfigError(f"{file}: {text}", remedy)


class _Section:
    """The keys of one section as written, and the file that each came from."""

    def __init__(self, name: str, keys: Mapping[str, str], origin: Mapping[tuple[str, str], Path]) -> None:
        self.name = name
        self._keys = keys
        self._origin = origin

    def file(self, key: str) -> Optional[Path]:
        """The file with a key; for a key that is not set, the file with the section."""
        return self._origin.get((self.name, key)) or self._origin.get((self.name, ""))

    def error(self, key: str, problem: str, remedy: str = "") -> ConfigError:
        """An error in the value of a key; in the section itself without one."""
        place = f"[{self.name}] {key}: " if key else f"[{self.name}] "
        return _error_in(self.file(key), place + problem, remedy)

    def unknown_key(self, key: str, known: Sequence[str]) -> ConfigError:
        """The error for a key that the section does not have."""
        similar = difflib.get_close_matches(key, known, 1)
        hint = f" (did you mean '{similar[0]}'?)" if similar else ""
        problem = f"[{self.name}] unknown key '{key}'{hint}"
        return _error_in(self.file(key), problem, f"the keys are {', '.join(known)}")

    def values(self, of: type) -> dict[str, Any]:
        """The values for the fields of `of`, a dataclass with settings; a field that is not set is left out."""
        found: dict[str, Any] = {}
        left = dict(self._keys)
        for target, one in setting.settings(of):
            text = left.pop(one.key, None)
            if not (text or "").strip() and setting.is_required(target):
                raise self.error("", f"the key '{one.key}' is missing")
            if text is None:
                continue
            try:
                found[target.name] = one.form.read(text.strip())
            except InputError as error:
                raise self.error(one.key, error.problem, error.remedy) from None
        if left:
            known = sorted(one.key for _, one in setting.settings(of))
            raise self.unknown_key(sorted(left)[0], known)
        return found


def _pool(section: _Section) -> Pool:
    name = section.name.split(None, 1)[1].strip()
    if not _POOL_NAME.fullmatch(name):
        raise section.error(
            "", f"'{name}' is not a valid name for a pool", "use letters, digits, '.', '_' and '-'"
        )
    return Pool(name=name, origin=str(section.file("pf")), **section.values(Pool))


def _libvirt(section: _Section) -> LibvirtAccess:
    access = LibvirtAccess(**section.values(LibvirtAccess))
    try:
        access.check()
    except InputError as error:
        raise section.error("", error.problem, error.remedy) from None
    return access


def _read(paths: Iterable[Path]) -> tuple[configparser.ConfigParser, dict[tuple[str, str], Path]]:
    """The merged files, and the file that each key came from."""
    merged = configparser.ConfigParser(interpolation=None)
    origin: dict[tuple[str, str], Path] = {}
    for path in paths:
        one = configparser.ConfigParser(interpolation=None, default_section="\0")
        try:
            one.read_string(path.read_text(encoding="utf-8"), source=str(path))
        except OSError as error:
            raise _unreadable(path, error) from None
        except (configparser.Error, UnicodeDecodeError) as error:
            raise _error_in(path, str(error)) from None
        for section in one.sections():
            if not merged.has_section(section):
                merged.add_section(section)
            origin[(section, "")] = path
            for key, value in one.items(section):
                merged.set(section, key, value)
                origin[(section, key)] = path
    return merged, origin


def files(path: Path = DEFAULT_PATH) -> list[Path]:
    """The files of a configuration that exist, in the order in which they are read.

    Raises ConfigError where that cannot be seen.
    """
    directory = path.with_name(path.name + ".d")
    try:
        found = [path] if exists(path) else []
    except HostError as error:
        raise ConfigError(error.problem, error.remedy) from None
    try:
        return found + sorted(directory / name for name in os.listdir(directory) if name.endswith(".conf"))  # noqa: PTH208 - glob() takes a directory that is denied for an empty one
    except ABSENT:
        return found
    except OSError as error:
        raise _unreadable(directory, error) from None


def _unreadable(path: Path, error: OSError) -> ConfigError:
    denied = isinstance(error, PermissionError)
    return ConfigError(f"{path}: cannot be read: {error.strerror}", DENIED_REMEDY if denied else "")


def load(path: Path = DEFAULT_PATH) -> Config:
    """Read `path` and the `*.conf` files of `path.d`, in the order of their names.

    A missing main file is the same as an empty one: vfmigrate does nothing on a host without pools.
    Raises ConfigError naming file, section and key.
    """
    parser, origin = _read(files(path))
    daemon: dict[str, Any] = {}
    libvirt = LibvirtAccess()
    pools: dict[str, Pool] = {}
    for name in parser.sections():
        section = _Section(name, dict(parser.items(name)), origin)
        if name == "daemon":
            daemon = section.values(Config)
        elif name == "libvirt":
            libvirt = _libvirt(section)
        elif name.split(None, 1)[0:1] == ["pool"] and len(name.split(None, 1)) == 2:
            pool = _pool(section)
            _refuse_shared_pf(section, pool, pools.values())
            _refuse_shared_network(section, pool, pools.values())
            _refuse_second_taker(section, pool, pools.values())
            pools[pool.name] = pool
        else:
            raise section.error("", "unknown section", "the sections are [daemon], [libvirt] and [pool NAME]")
    return Config(pools=pools, libvirt=libvirt, **daemon)


def _refuse_shared_pf(section: _Section, pool: Pool, others: Iterable[Pool]) -> None:
    for other in others:
        for pf in pool.pfs:
            if pf in other.pfs:
                raise section.error("pf", f"{pf} already belongs to pool '{other.name}'")


def _refuse_shared_network(section: _Section, pool: Pool, others: Iterable[Pool]) -> None:
    for other in others:
        if pool.libvirt_network is not None and pool.libvirt_network == other.libvirt_network:
            raise section.error(
                "network", f"'{pool.libvirt_network}' is the network of pool '{other.name}' already"
            )


def _refuse_second_taker(section: _Section, pool: Pool, others: Iterable[Pool]) -> None:
    for other in others:
        if pool.unmarked == other.unmarked == TAKE:
            raise section.error(
                "unmarked",
                f"pool '{other.name}' already has unmarked = take; only one pool can have it",
                "set unmarked = ignore in one of them",
            )
