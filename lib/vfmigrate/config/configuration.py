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
from typing import Any, Optional

from vfmigrate.config import setting
from vfmigrate.config.setting import key as _key
from vfmigrate.errors import ConfigError, InputError
from vfmigrate.model.pci import PciAddress

DEFAULT_PATH = Path("/etc/vfmigrate/vfmigrate.conf")

#: what a key says that switches a thing off
NONE = "none"
#: what `unmarked` says of VFs that are to be ours although no metadata says so
TAKE = "take"
#: the value of `uplink` that stands for the physical port of each PF; no network device can have this name
#: Open vSwitch's VLAN of frames without a tag
UNTAGGED = 0
UPLINK_OF_PF = ""

# characters of a file that an error may quote
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
            "bridge", setting.BRIDGE, "The Open vSwitch bridge that the VFs' ports are plugged into."
        )
    )
    vlan: Optional[int] = field(
        default=None,
        metadata=_key(
            "vlan",
            setting.number(1, setting.MAX_VLAN),
            "The tag of an interface whose guest asks for none.",
            otherwise="a trunk of the pool's vlans; without any, no VLAN but untagged frames",
        ),
    )
    vlans: frozenset[int] = field(
        default=frozenset(),
        metadata=_key(
            "vlans",
            setting.VLANS,
            "The VLANs that a guest's metadata may ask for; the pool's own is always among them. "
            "all allows every VLAN, and gives a guest that asks for none a trunk of all of them.",
            otherwise="none",
        ),
    )
    mtu: Optional[int] = field(
        default=None,
        metadata=_key(
            "mtu", setting.number(68, 65535), "The MTU of the representors, in bytes.", otherwise="left alone"
        ),
    )
    announce: bool = field(
        default=True,
        metadata=_key(
            "announce", setting.FLAG, "Whether to tell the network where a guest went when it resumes here."
        ),
    )
    vfs: Optional[int] = field(
        default=None,
        metadata=_key(
            "vfs",
            setting.number(1, 4095),
            "How many VFs each physical function of the pool gets when the host is provisioned. "
            "The number is never changed while a guest holds one of them.",
            otherwise="as many as there are",
        ),
    )
    msix: Optional[int] = field(
        default=None,
        metadata=_key(
            "msix",
            setting.number(1, 2048),
            "MSI-X vectors of each VF (the kernel's sriov_vf_msix_count). "
            "A guest can migrate only between VFs with the same number, which otherwise depends on how many VFs there "
            "are.",
            otherwise="left to the card",
        ),
    )
    uplink: str = field(
        default=UPLINK_OF_PF,
        metadata=_key(
            "uplink",
            setting.NETDEV,
            "The network device by which the bridge reaches the network, such as a bond of the physical functions. "
            "It is brought up and plugged into the bridge; none leaves that to you.",
            otherwise="the physical port of each physical function",
        ),
    )
    network: Optional[str] = field(
        default=None,
        metadata=_key(
            "network",
            setting.NETWORK,
            "The libvirt network (forward mode hostdev) from which guests get VFs of the pool, kept defined and "
            "started. Guests name it in place of a VF's address, so that their XML is the same on every host. "
            "With none there is no such network.",
            otherwise="vfmigrate- and the name of the pool",
        ),
    )
    firmware_min: Optional[tuple[int, ...]] = field(
        default=None,
        metadata=_key(
            "firmware_min",
            setting.VERSION,
            "The oldest firmware a card of the pool may run. Where versions begin with the number of a family of "
            "cards, it holds for cards of that family.",
            otherwise="what is known of the card's family",
        ),
    )
    restart_openvswitch: bool = field(
        default=False,
        metadata=_key(
            "restart_openvswitch",
            setting.FLAG,
            "Whether provisioning may restart the switch daemon when it has switched hardware offload on, "
            "which has no effect before. It never does while a guest of this host has a VF.",
        ),
    )
    representor_names: str = field(
        default="kernel",
        metadata=_key(
            "representor_names",
            setting.choice("kernel", "stable"),
            "Who names the VFs' representors: kernel leaves them to the kernel and udev, stable gives them names made "
            "from bus, slot, physical function and VF, such as re100pf0vf12, of at most 15 characters.",
        ),
    )

    free_vfs: str = field(
        default="ready",
        metadata=_key(
            "free_vfs",
            setting.choice("ready", "host"),
            "How VFs that no guest has are kept: ready without a driver of the host and able to take a guest's state, "
            "host with the host's driver. oVirt's engine needs the latter to give VFs away by passthrough profiles "
            "(failover and replug), since it takes a VF without a network device for one in use.",
        ),
    )

    unmarked: str = field(
        default="ignore",
        metadata=_key(
            "unmarked",
            setting.choice("ignore", TAKE),
            "What becomes of a guest that comes from another host, or from a file, with an interface of type hostdev "
            "of which the guest's metadata says nothing, as from a host without vfmigrate. ignore leaves its VF as it "
            "is: libvirt takes the one with the same address. take gives it a VF of this pool; what its card was is "
            "then not known, and cannot be compared. One pool may say take. A plain hostdev is never taken.",
        ),
    )
    max_migrating: Optional[int] = field(
        default=None,
        metadata=_key(
            "max_migrating",
            setting.number(1, 4095),
            "How many VFs of one physical function may be on their way to this host at once. A further guest "
            "waits for migrating_wait of the section daemon, and is then refused; "
            "one with more VFs on a physical function than that is refused at once.",
            otherwise="what is known of the card; 4 where nothing is",
        ),
    )

    #: the file that names the PFs, for what is found wrong with them later
    origin: str = field(default="", compare=False)

    @property
    def libvirt_network(self) -> Optional[str]:
        """The name of the pool's libvirt network; None when it is to have none."""
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
        """Whether metadata may choose `vlan` for an interface of this pool."""
        return vlan == self.vlan or vlan in self.vlans


@dataclass(frozen=True)
class Config:
    """All that the administrator decided: the pools, and the keys of the section [daemon]."""

    pools: Mapping[str, Pool] = field(default_factory=dict)
    libvirt_uri: str = field(
        default="qemu:///system",
        metadata=_key(
            "libvirt_uri",
            setting.TEXT,
            "The daemon's libvirt connection. It is never used while a hook waits.",
        ),
    )
    ovsdb: str = field(
        default="unix:/run/openvswitch/db.sock",
        metadata=_key(
            "ovsdb", setting.TEXT, "Where Open vSwitch's database listens, in Open vSwitch's own notation."
        ),
    )
    claim_timeout: int = field(
        default=120,
        metadata=_key(
            "claim_timeout",
            setting.number(5, 86400),
            "Seconds until a VF that was claimed for a guest which then never came is free again.",
        ),
    )
    migrating_wait: int = field(
        default=30,
        metadata=_key(
            "migrating_wait",
            setting.number(0, 45),
            "Seconds for which a migration to this host waits while as many VFs are on the move as may be "
            "(max_migrating of the pool), before it is refused.",
        ),
    )
    reconcile_interval: int = field(
        default=30,
        metadata=_key(
            "reconcile_interval",
            setting.number(1, 86400),
            "Seconds between two comparisons of the host with the claims.",
        ),
    )
    readers: frozenset[str] = field(
        default=frozenset(),
        metadata=_key(
            "readers",
            setting.NAMES,
            "Users besides root who may ask for the daemon's state.",
            otherwise="none",
        ),
    )
    clients: frozenset[str] = field(
        default=frozenset(),
        metadata=_key(
            "clients",
            setting.NAMES,
            "Users besides root who may claim free VFs for guests and give back those that no guest holds, as oVirt's "
            "vdsm does. They may ask for the daemon's state as well.",
            otherwise="none",
        ),
    )

    def pool_of(self, pf: PciAddress) -> Optional[Pool]:
        """The pool that names this physical function, or None when it is none of our business."""
        return next((pool for pool in self.pools.values() if pf in pool.pfs), None)


def _mistake(file: Optional[Path], problem: str, remedy: str = "") -> ConfigError:
    """What is wrong with a file, of which no more is quoted than helps to find the place."""
    told = problem if len(problem) <= _LONGEST_QUOTE else f"{problem[:_LONGEST_QUOTE]}…"
    return ConfigError(f"{file}: {told}", remedy)


class _Section:
    """The keys of one section as written, and the file that each came from."""

    def __init__(self, name: str, keys: Mapping[str, str], origin: Mapping[tuple[str, str], Path]) -> None:
        self.name = name
        self._keys = keys
        self._origin = origin

    def file(self, key: str) -> Optional[Path]:
        """Where a key is written; of a key that is not, the file that has the section."""
        return self._origin.get((self.name, key)) or self._origin.get((self.name, ""))

    def error(self, key: str, problem: str, remedy: str = "") -> ConfigError:
        """A mistake, told with file, section and key."""
        return _mistake(self.file(key), f"[{self.name}] {key}: {problem}", remedy)

    def values(self, of: type) -> dict[str, Any]:
        """The values for the fields of `of`, a dataclass with settings; a field that is not set is left out."""
        found: dict[str, Any] = {}
        left = dict(self._keys)
        for target, one in setting.settings(of):
            text = left.pop(one.key, None)
            if not (text or "").strip() and setting.is_required(target):
                raise self.error(one.key, "is missing")
            if text is None:
                continue
            try:
                found[target.name] = one.form.read(text.strip())
            except InputError as error:
                raise self.error(one.key, error.problem, error.remedy) from None
        if left:
            known = sorted(one.key for _, one in setting.settings(of))
            raise self.error(
                sorted(left)[0], "is not a key of this section", f"the keys are {', '.join(known)}"
            )
        return found


def _pool(section: _Section) -> Pool:
    name = section.name.split(None, 1)[1].strip()
    if not _POOL_NAME.fullmatch(name):
        raise section.error("", f"'{name}' is no name for a pool", "use letters, digits, '.', '_' and '-'")
    return Pool(name=name, origin=str(section.file("pf")), **section.values(Pool))


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
            raise _mistake(path, str(error)) from None
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
            raise section.error("", "is not a section we know", "the sections are [daemon] and [pool NAME]")
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
                "network", f"'{pool.libvirt_network}' is already the network of pool '{other.name}'"
            )


def _refuse_second_taker(section: _Section, pool: Pool, others: Iterable[Pool]) -> None:
    for other in others:
        if pool.unmarked == other.unmarked == TAKE:
            raise section.error(
                "unmarked",
                f"pool '{other.name}' already takes what is not marked",
                "say ignore in one of them",
            )
