# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: `/etc/vfmigrate/vfmigrate.conf` and `vfmigrate.conf.d/*.conf` beside it.

INI files, read in that order, later keys over earlier ones. A `[pool NAME]` names physical functions whose VFs
guests may get; the same pool name on two hosts means the same network. Nothing is guessed: an unknown section or
key and an impossible value are errors that name file, section and key.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

from vfmigrate.errors import ConfigError, InputError
from vfmigrate.pci import PciAddress

DEFAULT_PATH = Path("/etc/vfmigrate/vfmigrate.conf")

# net/if.h: IFNAMSIZ is 16 with the closing zero.
_MAX_NETDEV_NAME = 15
_MAX_VLAN = 4094
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Pool:
    """Physical functions whose VFs reach one network, and how their ports are plugged."""

    name: str
    pfs: tuple[PciAddress, ...]
    bridge: str
    #: tag of an interface that asks for none; None plugs an untagged trunk port
    vlan: Optional[int] = None
    #: VLANs that an interface's metadata may ask for; the pool's own is always among them
    vlans: frozenset[int] = frozenset()
    #: MTU of the representors in bytes; None leaves them as they are
    mtu: Optional[int] = None
    #: tell the network where a guest went when it resumes here
    announce: bool = True

    def allows_vlan(self, vlan: int) -> bool:
        """Whether metadata may choose `vlan` for an interface of this pool."""
        return vlan == self.vlan or vlan in self.vlans


@dataclass(frozen=True)
class Config:
    """All that the administrator decided."""

    pools: Mapping[str, Pool] = field(default_factory=dict)
    #: libvirt connection of the daemon (never used while a hook waits)
    libvirt_uri: str = "qemu:///system"
    #: OVSDB remote, in Open vSwitch's own notation
    ovsdb: str = "unix:/run/openvswitch/db.sock"
    #: seconds until a VF that was claimed for a guest which then never came is free again
    claim_timeout: int = 120
    #: seconds between two comparisons of the host with the claims
    reconcile_interval: int = 30
    #: users besides root who may ask for the daemon's state
    readers: frozenset[str] = frozenset()

    def pool_of(self, pf: PciAddress) -> Optional[Pool]:
        """The pool that names this physical function, or None when it is none of our business."""
        return next((pool for pool in self.pools.values() if pf in pool.pfs), None)


class _Section:
    """The keys of one section, each taken once; what is left over is unknown."""

    def __init__(self, name: str, keys: Mapping[str, str], origin: Mapping[tuple[str, str], Path]) -> None:
        self.name = name
        self._left = dict(keys)
        self._origin = origin

    def error(self, key: str, problem: str, remedy: str = "") -> ConfigError:
        path = self._origin.get((self.name, key)) or self._origin.get((self.name, ""))
        return ConfigError(f"{path}: [{self.name}] {key}: {problem}", remedy)

    def text(self, key: str) -> Optional[str]:
        value = self._left.pop(key, None)
        return value.strip() if value is not None else None

    def required(self, key: str) -> str:
        value = self.text(key)
        if not value:
            raise self.error(key, "is missing")
        return value

    def words(self, key: str) -> tuple[str, ...]:
        return tuple((self.text(key) or "").replace(",", " ").split())

    def number(self, key: str, low: int, high: int) -> Optional[int]:
        text = self.text(key)
        if text is None:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise self.error(key, f"'{text}' is not a number from {low} to {high}")
        return int(text)

    def flag(self, key: str, default: bool) -> bool:
        text = self.text(key)
        if text is None:
            return default
        if text.lower() not in configparser.ConfigParser.BOOLEAN_STATES:
            raise self.error(key, f"'{text}' is neither yes nor no")
        return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]

    def vlans(self, key: str) -> frozenset[int]:
        found: set[int] = set()
        for word in self.words(key):
            low, _, high = word.partition("-")
            if not re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,4})?", word) or not (
                1 <= int(low) <= int(high or low) <= _MAX_VLAN
            ):
                raise self.error(key, f"'{word}' is no VLAN or range of VLANs from 1 to {_MAX_VLAN}")
            found.update(range(int(low), int(high or low) + 1))
        return frozenset(found)

    def finish(self, known: Iterable[str]) -> None:
        if self._left:
            key = sorted(self._left)[0]
            raise self.error(key, "is not a key of this section", f"the keys are {', '.join(sorted(known))}")


def _pool(section: _Section) -> Pool:
    name = section.name.split(None, 1)[1].strip()
    if not _POOL_NAME.fullmatch(name):
        raise section.error("", f"'{name}' is no name for a pool", "use letters, digits, '.', '_' and '-'")
    try:
        pfs = tuple(PciAddress.parse(word) for word in section.required("pf").replace(",", " ").split())
    except InputError as error:
        raise section.error("pf", error.problem, error.remedy) from None
    bridge = section.required("bridge")
    if len(bridge) > _MAX_NETDEV_NAME or "/" in bridge or len(bridge.split()) != 1:
        raise section.error("bridge", f"'{bridge}' is no name for a bridge", "at most 15 characters, no '/'")
    pool = Pool(
        name=name,
        pfs=pfs,
        bridge=bridge,
        vlan=section.number("vlan", 1, _MAX_VLAN),
        vlans=section.vlans("vlans"),
        mtu=section.number("mtu", 68, 65535),
        announce=section.flag("announce", True),
    )
    section.finish(("pf", "bridge", "vlan", "vlans", "mtu", "announce"))
    return pool


def _daemon(section: _Section) -> Callable[[Mapping[str, Pool]], Config]:
    defaults = Config()
    uri = section.text("libvirt_uri") or defaults.libvirt_uri
    ovsdb = section.text("ovsdb") or defaults.ovsdb
    timeout = section.number("claim_timeout", 5, 86400) or defaults.claim_timeout
    interval = section.number("reconcile_interval", 1, 86400) or defaults.reconcile_interval
    readers = frozenset(section.words("readers"))
    section.finish(("libvirt_uri", "ovsdb", "claim_timeout", "reconcile_interval", "readers"))
    return lambda pools: Config(pools, uri, ovsdb, timeout, interval, readers)


def _read(paths: Iterable[Path]) -> tuple[configparser.ConfigParser, dict[tuple[str, str], Path]]:
    """Parse the files over one another; remember which file each key came from."""
    merged = configparser.ConfigParser(interpolation=None)
    origin: dict[tuple[str, str], Path] = {}
    for path in paths:
        one = configparser.ConfigParser(interpolation=None, default_section="\0")
        try:
            one.read_string(path.read_text(encoding="utf-8"), source=str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except (configparser.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
        for section in one.sections():
            if not merged.has_section(section):
                merged.add_section(section)
            origin[(section, "")] = path
            for key, value in one.items(section):
                merged.set(section, key, value)
                origin[(section, key)] = path
    return merged, origin


def load(path: Path = DEFAULT_PATH) -> Config:
    """Read `path` and the `*.conf` files of `path.d`, in the order of their names.

    A missing main file is an empty one: a host without pools is a host on which we do nothing.
    Raises ConfigError naming file, section and key.
    """
    directory = path.with_name(path.name + ".d")
    paths = [path] if path.exists() else []
    if directory.is_dir():
        paths += sorted(directory.glob("*.conf"))
    parser, origin = _read(paths)
    build = _daemon(_Section("daemon", {}, {}))
    pools: dict[str, Pool] = {}
    for name in parser.sections():
        section = _Section(name, dict(parser.items(name)), origin)
        if name == "daemon":
            build = _daemon(section)
        elif name.split(None, 1)[0:1] == ["pool"] and len(name.split(None, 1)) == 2:
            pool = _pool(section)
            _refuse_shared_pf(section, pool, pools.values())
            pools[pool.name] = pool
        else:
            raise section.error("", "is not a section we know", "the sections are [daemon] and [pool NAME]")
    return build(pools)


def _refuse_shared_pf(section: _Section, pool: Pool, others: Iterable[Pool]) -> None:
    for other in others:
        for pf in pool.pfs:
            if pf in other.pfs:
                raise section.error("pf", f"{pf} already belongs to pool '{other.name}'")
