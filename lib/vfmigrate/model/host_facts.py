# SPDX-License-Identifier: GPL-2.0-or-later
"""Host facts: what vfmigrated reports of its host, to judge whether a guest can migrate from or to it.

Pure: the values, and how they are read from a daemon's answer to `facts` (docs/protocol.md). The answer comes from
another host, so its form is checked here. A value that could not be observed is None.
"""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

from vfmigrate.errors import InputError
from vfmigrate.model import from_json
from vfmigrate.model.vfio import MigrationSupport

SCHEMA = 1
_SAME_VERSION = "install the same version on both hosts"


@dataclass(frozen=True)
class VfFacts:
    """One VF of a pool."""

    address: str
    driver: Optional[str] = None
    #: it is bound to a VFIO driver
    vfio: bool = False
    #: the flag of its devlink port; None where there is no port, or the port has no such flag
    migratable: Optional[bool] = None
    msix: Optional[int] = None
    #: who has it, in words; None when it is free
    holder: Optional[str] = None
    #: UUID of the guest that claims it, and the MAC of its interface
    guest: Optional[str] = None
    mac: Optional[str] = None
    #: the claim's state (claims.py); None without a claim
    state: Optional[str] = None
    strategy: Optional[str] = None
    #: it was in use while it was not migratable, and is still bound: its guest cannot migrate, whatever the flag is now
    bound_early: bool = False
    #: it is migrating to this host or away from it
    moving: bool = False


@dataclass(frozen=True)
class PfFacts:
    """One physical function of a pool."""

    address: str
    #: why the rest is unknown; None when all could be observed
    problem: Optional[str] = None
    #: vendor and device ID, such as 8086:10c9; None from a vfmigrate that does not report it
    pci_id: Optional[str] = None
    psid: Optional[str] = None
    firmware: Optional[str] = None
    #: of the eswitch
    mode: Optional[str] = None
    #: the VFIO driver that this kernel has for its VFs
    variant_driver: Optional[str] = None
    #: what this driver answered for a free VF, or why none was asked
    support: Optional[MigrationSupport] = None
    support_unknown: Optional[str] = None
    vfs: tuple[VfFacts, ...] = ()

    @property
    def free(self) -> int:
        """The number of free VFs."""
        return sum(vf.holder is None for vf in self.vfs)

    @property
    def moving(self) -> int:
        """The number of VFs that are migrating; `max_migrating` of the pool is the limit."""
        return sum(vf.moving for vf in self.vfs)


@dataclass(frozen=True)
class FindingFacts:
    """A finding about a pool or the host, independent of any guest (findings.py)."""

    severity: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class PoolFacts:
    """One pool."""

    name: str
    bridge: str
    #: None while Open vSwitch does not answer
    bridge_exists: Optional[bool] = None
    #: of its representors; None when it is unknown, or the pool has no uplink
    mtu: Optional[int] = None
    vlan: Optional[int] = None
    #: VLANs that metadata can name, besides `vlan`
    vlans: tuple[int, ...] = ()
    #: the name of its libvirt network
    network: Optional[str] = None
    #: how many VFs of one of its physical functions may be on the move at the same time
    max_migrating: int = 4
    pfs: tuple[PfFacts, ...] = ()
    findings: tuple[FindingFacts, ...] = ()

    @property
    def free(self) -> int:
        """The number of free VFs."""
        return sum(pf.free for pf in self.pfs)

    def allows_vlan(self, vlan: int) -> bool:
        """Whether an interface can be in `vlan`."""
        return vlan == self.vlan or vlan in self.vlans


@dataclass(frozen=True)
class SwitchFacts:
    """Open vSwitch."""

    #: why its database does not answer
    problem: Optional[str] = None
    #: ovs-vswitchd runs; None where that cannot be seen
    running: Optional[bool] = False
    #: what cannot be seen of it, and why
    unknown: Optional[str] = None
    #: `on`, `off`, or `restart` while ovs-vswitchd must be restarted for it
    offload: Optional[str] = None


@dataclass(frozen=True)
class MigrationFacts:
    """How libvirt is configured to receive migrations (qemu.conf)."""

    host: Optional[str] = None
    port_min: int = 49152
    port_max: int = 49215


@dataclass(frozen=True)
class BridgeFacts:
    """A bridge that the request named."""

    name: str
    #: `openvswitch`, `linux`, or None when no bridge has this name
    kind: Optional[str] = None


@dataclass(frozen=True)
class FileFacts:
    """A file that the request named."""

    #: in an answer, the digest of the path
    path: str
    #: None when the daemon cannot see that
    exists: Optional[bool] = None
    #: `file`, `block`, or `other`
    kind: Optional[str] = None
    #: the type of the file system that holds it, such as `nfs4`
    filesystem: Optional[str] = None
    #: in bytes
    size: Optional[int] = None


@dataclass(frozen=True)
class HostFacts:
    """One host."""

    host: str
    vfmigrate: str
    kernel: str
    #: the host's clock, in seconds since the epoch
    time: float
    switch: SwitchFacts
    migration: MigrationFacts
    pools: tuple[PoolFacts, ...] = ()
    #: the least `max_migrating` of its pools
    moving_at_once: int = 4
    #: libvirt finds our hook
    hook: Optional[bool] = None
    #: what the request named
    bridges: tuple[BridgeFacts, ...] = ()
    files: tuple[FileFacts, ...] = ()
    #: what is wrong with the host as a whole
    problems: tuple[FindingFacts, ...] = ()
    schema: int = SCHEMA

    def pool(self, name: str) -> Optional[PoolFacts]:
        """A pool by its name."""
        return next((pool for pool in self.pools if pool.name == name), None)

    def vf(self, address: str) -> Optional[tuple[PoolFacts, PfFacts, VfFacts]]:
        """A VF by its address, with its pool and physical function."""
        return next(
            (
                (pool, pf, vf)
                for pool in self.pools
                for pf in pool.pfs
                for vf in pf.vfs
                if vf.address == address
            ),
            None,
        )

    def plain(self) -> dict[str, Any]:
        """For the daemon's answer."""
        return asdict(self)


def digest(salt: str, path: str) -> str:
    """What a request has in place of a path, which every user of the other host could read."""
    return hashlib.sha256(f"{salt}\0{path}".encode("utf-8", "surrogatepass")).hexdigest()


def file_arguments(salt: str, paths: Sequence[str]) -> dict[str, Any]:
    """The arguments of a request for facts about files; `salt` is a random text."""
    return {
        "salt": salt,
        "files": [digest(salt, path) for path in paths],
        "directories": [digest(salt, os.path.dirname(path)) for path in paths],  # noqa: PTH120 - text, not a file
    }


def with_paths(facts: HostFacts, salt: str, paths: Sequence[str]) -> HostFacts:
    """The facts with the paths in place of their digests; other files are left out."""
    names = {digest(salt, path): path for path in paths}
    files = tuple(replace(each, path=names[each.path]) for each in facts.files if each.path in names)
    return replace(facts, files=files)


def read(answer: Mapping[str, Any]) -> HostFacts:
    """The facts in an answer of a daemon, which can be a newer one: unknown fields are ignored.

    Raises InputError when schema or form differ.
    """
    if answer.get("schema") != SCHEMA:
        schema = str(answer.get("schema"))[:10]
        raise InputError(
            f"the host facts have schema {schema}; this vfmigrate reads schema {SCHEMA}",
            _SAME_VERSION,
        )
    return from_json.read(HostFacts, answer, "the host facts", _SAME_VERSION)
