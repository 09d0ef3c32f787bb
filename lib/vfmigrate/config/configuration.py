# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration: `/etc/vfmigrate/vfmigrate.conf` and `vfmigrate.conf.d/*.conf` beside it.

INI files, read in that order; later values replace earlier ones. A `[pool NAME]` names physical functions whose VFs
guests can get; pools of the same name on two hosts reach the same network. Nothing is guessed: an unknown section or
key and an impossible value are errors that name file, section and key.
"""

from __future__ import annotations

import configparser
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from vfmigrate.config import setting
from vfmigrate.config.setting import key as _key
from vfmigrate.errors import ConfigError, InputError
from vfmigrate.model.pci import PciAddress

DEFAULT_PATH = Path("/etc/vfmigrate/vfmigrate.conf")

#: the value of a key that disables something
NONE = "none"
#: the value of `unmarked` for a pool whose VFs are given to interfaces that no metadata mentions
TAKE = "take"
#: the value of `uplink` for the physical port of each PF; no network device can have this name
#: Open vSwitch's VLAN of frames without a tag
UNTAGGED = 0
UPLINK_OF_PF = ""

# characters of a file that an error quotes
_LONGEST_QUOTE = 400
_POOL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True)
class Pool:
    """Physical functions whose VFs reach one network, and how their ports are plugged."""

    name: str
    pfs: tuple[PciAddress, ...] = field(
        metadata=_key(
            "pf",
            setting.PCI_ADDRESSES,
            "The physical functions whose VFs make up the pool. A physical function belongs to one pool.",
        )
    )
    bridge: str = field(
        metadata=_key(
            "bridge", setting.BRIDGE, "The Open vSwitch bridge into which the VFs' representors are plugged."
        )
    )
    vlan: Optional[int] = field(
        default=None,
        metadata=_key(
            "vlan",
            setting.number(1, setting.MAX_VLAN),
            "The VLAN of an interface whose metadata names none.",
            otherwise="a trunk of the pool's vlans; without any, no VLAN but untagged frames",
        ),
    )
    vlans: frozenset[int] = field(
        default=frozenset(),
        metadata=_key(
            "vlans",
            setting.VLANS,
            "The VLANs that a guest's metadata can name; the VLAN of the key vlan is always allowed. "
            "all allows every VLAN, and gives an interface whose metadata names none a trunk of all of them.",
            otherwise="none",
        ),
    )
    mtu: Optional[int] = field(
        default=None,
        metadata=_key(
            "mtu",
            setting.number(68, 65535),
            "The MTU of the representors, in bytes.",
            otherwise="not changed",
        ),
    )
    announce: bool = field(
        default=True,
        metadata=_key(
            "announce",
            setting.FLAG,
            "Whether to announce the MAC of a guest to the network when it resumes on this host after a migration.",
        ),
    )
    vfs: Optional[int] = field(
        default=None,
        metadata=_key(
            "vfs",
            setting.number(1, 4095),
            "How many VFs provisioning creates on each physical function of the pool. "
            "The number is never changed while a guest has one of them.",
            otherwise="not changed",
        ),
    )
    msix: Optional[int] = field(
        default=None,
        metadata=_key(
            "msix",
            setting.number(1, 2048),
            "MSI-X vectors of each VF (the kernel's sriov_vf_msix_count). "
            "A guest can migrate only between VFs with the same number. Without this key the number depends on the "
            "number of VFs.",
            otherwise="chosen by the card",
        ),
    )
    uplink: str = field(
        default=UPLINK_OF_PF,
        metadata=_key(
            "uplink",
            setting.NETDEV,
            "The network device by which the bridge reaches the network, such as a bond of the physical functions. "
            "Provisioning brings it up and plugs it into the bridge; with none, do that yourself.",
            otherwise="the physical port of each physical function",
        ),
    )
    network: Optional[str] = field(
        default=None,
        metadata=_key(
            "network",
            setting.NETWORK,
            "The libvirt network (forward mode hostdev) from which guests get VFs of the pool. vfmigrate defines and "
            "starts it. Guests name the network instead of the address of a VF, so that their XML is the same on every "
            "host. With none, no network is defined.",
            otherwise="vfmigrate- followed by the name of the pool",
        ),
    )
    firmware_min: Optional[tuple[int, ...]] = field(
        default=None,
        metadata=_key(
            "firmware_min",
            setting.VERSION,
            "The oldest firmware that a card of the pool may run. Where the first number of a version is that of a "
            "family of cards, the key applies to cards of that family only.",
            otherwise="the known minimum for the family of the card",
        ),
    )
    restart_openvswitch: bool = field(
        default=False,
        metadata=_key(
            "restart_openvswitch",
            setting.FLAG,
            "Whether provisioning may restart ovs-vswitchd after it has enabled hardware offload, which takes effect "
            "only then. It never does so while a guest on this host has a VF.",
        ),
    )
    representor_names: str = field(
        default="kernel",
        metadata=_key(
            "representor_names",
            setting.choice("kernel", "stable"),
            "Who names the representors of VFs. kernel: the kernel and udev. stable: vfmigrate, from PCI bus, slot, "
            "physical function and VF, such as re100pf0vf12; a name has at most 15 characters.",
        ),
    )

    free_vfs: str = field(
        default="ready",
        metadata=_key(
            "free_vfs",
            setting.choice("ready", "host"),
            "The driver of VFs that no guest has. ready: no host driver, so that the VF can receive device state. "
            "host: the host's driver. oVirt's engine needs host to assign VFs by passthrough profiles (failover and "
            "replug), because it takes a VF without a network device for one in use.",
        ),
    )

    unmarked: str = field(
        default="ignore",
        metadata=_key(
            "unmarked",
            setting.choice("ignore", TAKE),
            "What to do when a guest arrives from another host, or is restored from a file, with an interface of type "
            "hostdev that its metadata does not mention, for example from a host without vfmigrate. ignore: keep the "
            "address of the VF in the guest's XML. take: give the guest a VF of this pool; the card of the source is "
            "then unknown, and cannot be compared. Only one pool can have take. A plain hostdev is always ignored.",
        ),
    )
    max_migrating: Optional[int] = field(
        default=None,
        metadata=_key(
            "max_migrating",
            setting.number(1, 4095),
            "How many VFs of one physical function may migrate at the same time. One more guest waits for as long as "
            "migrating_wait in the section daemon says, and is then refused. A guest with more VFs than that on one "
            "physical function is refused at once.",
            otherwise="the known limit of the card, or 4",
        ),
    )

    #: the file with the key pf, for error messages about the PFs
    origin: str = field(default="", compare=False)

    @property
    def libvirt_network(self) -> Optional[str]:
        """The name of the pool's libvirt network; None when no network is to be defined."""
        if self.network == NONE:
            return None
        return self.network or f"vfmigrate-{self.name}"

    @property
    def default_trunks(self) -> tuple[int, ...]:
        """The VLANs on the trunk of an interface that names none, in a pool without a tag of its own.

        VLAN 0 is Open vSwitch's name for frames without a tag; no VLANs at all would be a trunk of all of them, which
        must be asked for.
        """
        if self.vlans == setting.ALL_VLANS:
            return ()
        return tuple(sorted(self.vlans)) or (UNTAGGED,)

    def allows_vlan(self, vlan: int) -> bool:
        """Whether metadata can name `vlan` for an interface of this pool."""
        return vlan == self.vlan or vlan in self.vlans


@dataclass(frozen=True)
class Config:
    """The whole configuration: the pools, and the keys of the section [daemon]."""

    pools: Mapping[str, Pool] = field(default_factory=dict)
    libvirt_uri: str = field(
        default="qemu:///system",
        metadata=_key(
            "libvirt_uri",
            setting.TEXT,
            "The URI of the daemon's libvirt connection. The connection is never used while a hook waits.",
        ),
    )
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

    def pool_of(self, pf: PciAddress) -> Optional[Pool]:
        """The pool that names this physical function, or None when no pool does."""
        return next((pool for pool in self.pools.values() if pf in pool.pfs), None)


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


def _read(paths: Iterable[Path]) -> tuple[configparser.ConfigParser, dict[tuple[str, str], Path]]:
    """The merged files, and the file that each key came from."""
    merged = configparser.ConfigParser(interpolation=None)
    origin: dict[tuple[str, str], Path] = {}
    for path in paths:
        one = configparser.ConfigParser(interpolation=None, default_section="\0")
        try:
            one.read_string(path.read_text(encoding="utf-8"), source=str(path))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
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


def load(path: Path = DEFAULT_PATH) -> Config:
    """Read `path` and the `*.conf` files of `path.d`, in the order of their names.

    A missing main file is the same as an empty one: vfmigrate does nothing on a host without pools.
    Raises ConfigError naming file, section and key.
    """
    directory = path.with_name(path.name + ".d")
    paths = [path] if path.exists() else []
    if directory.is_dir():
        paths += sorted(directory.glob("*.conf"))
    parser, origin = _read(paths)
    daemon: dict[str, Any] = {}
    pools: dict[str, Pool] = {}
    for name in parser.sections():
        section = _Section(name, dict(parser.items(name)), origin)
        if name == "daemon":
            daemon = section.values(Config)
        elif name.split(None, 1)[0:1] == ["pool"] and len(name.split(None, 1)) == 2:
            pool = _pool(section)
            _refuse_shared_pf(section, pool, pools.values())
            _refuse_shared_network(section, pool, pools.values())
            _refuse_second_taker(section, pool, pools.values())
            pools[pool.name] = pool
        else:
            raise section.error("", "unknown section", "the sections are [daemon] and [pool NAME]")
    return Config(pools=pools, **daemon)


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
                f"pool '{other.name}' has take already; only one pool can have it",
                "set unmarked = ignore in one of them",
            )
