# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims: which VF belongs to which interface of which domain, in which state, until when.

A claim is a small JSON file named after its VF under `/run/vfmigrate/claims`, written to a temporary name and then
renamed, so that it is there whole or not at all. `/run` is emptied by a reboot, as the VFs' users are. The daemon is
the only writer (it holds a lock file for as long as it lives); within it one lock spans looking and taking: take it
with `with store.lock:` around any sequence that decides on what it has seen.

Times are seconds of CLOCK_BOOTTIME: they go on while the host sleeps and do not jump with the wall clock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Optional

from vfmigrate.errors import HostError, InputError, Refused
from vfmigrate.locks import Rank, RankedLock
from vfmigrate.model import from_json
from vfmigrate.model.mac import is_mac
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.strategy import DEFAULT, NAMES, Strategy, named

FORMAT = 1

#: chosen for a guest that is expected; only `migratable` is prepared yet
RESERVED = "reserved"
#: libvirt was allowed to start the guest with this VF; no port yet
PREPARED = "prepared"
#: the guest has it: port plugged, representor up
PLUGGED = "plugged"
STATES = (RESERVED, PREPARED, PLUGGED)


def boottime() -> float:
    """Seconds since the host booted, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Claim:
    """One VF that one interface of one domain has or will have."""

    vf: PciAddress
    pool: str
    domain: str  # UUID
    domain_name: str
    state: str
    #: CLOCK_BOOTTIME of the last change, in seconds
    since: float
    #: CLOCK_BOOTTIME after which nobody needs it any more; None as long as the domain runs
    expires: Optional[float] = None
    mac: Optional[str] = None
    #: tag of the port and VLANs of a trunk
    vlan: Optional[int] = None
    trunks: tuple[int, ...] = ()
    #: set the VF's MAC through devlink, since libvirt does not (plain <hostdev>)
    set_mac: bool = False
    #: libvirt binds the driver; else we do
    managed: bool = True
    #: the guest comes from another host; false again once it runs here
    incoming: bool = False
    #: the address of the guest's VF on the host it comes from, which its persistent definition may still name
    origin: Optional[PciAddress] = None
    strategy: str = DEFAULT
    #: where its guest sees it, if it was taken out for a migration and is to be plugged in wherever the guest runs
    slot: Optional[str] = None
    #: names this claim in Open vSwitch, so that a late clean-up cannot touch a successor's port
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def traits(self) -> Strategy:
        """What its strategy asks of the VF."""
        return named(self.strategy)


def holder(claim: Claim) -> str:
    """Which guest has a claimed VF, in words."""
    verb = "held by" if claim.expires is None else "reserved for"
    return f"{verb} guest '{claim.domain_name}'"


def plain(claim: Claim) -> dict[str, Any]:
    """The claim as plain values."""
    origin = str(claim.origin) if claim.origin is not None else None
    return {**vars(claim), "vf": str(claim.vf), "origin": origin}


def encode(claim: Claim) -> str:
    """The claim as its file holds it."""
    return json.dumps({"format": FORMAT, **plain(claim)}, sort_keys=True)


#: fields that a claim of an older daemon does not have
_ADDED = ("origin", "slot")


def decode(text: str) -> Claim:
    """The claim in a file's text. Raises InputError for anything but a claim of this format."""
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("the claim is not JSON") from None
    if not isinstance(raw, dict):
        raise InputError("the claim is not a JSON object")
    if raw.pop("format", None) != FORMAT:
        raise InputError("the claim was written by another version of vfmigrate")
    claim = from_json.read(Claim, raw, "the claim", may_lack=_ADDED)
    if not _is_uuid(claim.domain):
        raise InputError("the claim's domain is not a UUID")
    if claim.mac is not None and (not is_mac(claim.mac) or claim.mac != claim.mac.lower()):
        raise InputError("the claim's mac is not a MAC address")
    if claim.state not in STATES:
        raise InputError(f"the claim's state is {claim.state[:20]!a}")
    if claim.strategy not in NAMES:
        raise InputError(f"the claim's strategy is {claim.strategy[:20]!a}")
    return claim


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _read(path: Path) -> Claim:
    # Not waiting: a FIFO of this name would be waited for until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError("the claim is no file")
    with open(descriptor, encoding="utf-8", errors="replace") as file:
        claim = decode(file.read(65536))
    if path.name != f"{claim.vf}.json":
        raise InputError(f"the claim is of {claim.vf}")
    return claim


class ClaimStore:
    """All claims of this host.

    Reads the files once, at its start, and writes through. Files it cannot read are set aside under `.broken` and
    listed in `broken`: their VFs are adopted again from the running domains.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = boottime) -> None:
        self.lock = RankedLock(Rank.CLAIMS, "the claims")
        self.clock = clock
        self._directory = directory
        self._closed: frozenset[PciAddress] = frozenset()
        self.broken: list[str] = []
        self._make_directory()
        self._owner = self._become_owner()
        self._claims: dict[PciAddress, Claim] = dict(self._load())

    def close(self) -> None:
        """Give up the directory, so that another daemon may own it."""
        os.close(self._owner)

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self._directory.lstat()
        except OSError as error:
            raise HostError(f"{self._directory}: {error.strerror}") from None
        if self._directory.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise HostError(
                f"{self._directory} is not a directory that only this user can write",
                f"remove it: rm -r {self._directory}",
            )

    def _become_owner(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._directory / ".lock", flags, 0o600)
        except OSError as error:
            raise HostError(
                f"cannot open {self._directory}/.lock: {error.strerror}",
                f"remove it: rm {self._directory}/.lock",
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise HostError(
                f"another vfmigrated already owns {self._directory}", "see systemctl status vfmigrated"
            ) from None
        return descriptor

    def _load(self) -> Iterator[tuple[PciAddress, Claim]]:
        for path in sorted(self._directory.iterdir()):
            if path.suffix == ".new":
                path.unlink()
            if path.suffix != ".json":
                continue
            try:
                claim = _read(path)
            except (OSError, InputError) as error:
                self.broken.append(f"{path.name}: {error}")
                with contextlib.suppress(OSError):
                    path.rename(path.with_suffix(".broken"))
                continue
            yield claim.vf, claim

    def all(self) -> list[Claim]:
        """Every claim, in the order of the VFs' addresses."""
        with self.lock:
            return [self._claims[vf] for vf in sorted(self._claims)]

    def get(self, vf: PciAddress) -> Optional[Claim]:
        """The claim on a VF, or None when it is free."""
        with self.lock:
            return self._claims.get(vf)

    def of_domain(self, domain: str) -> list[Claim]:
        """The claims of the domain with this UUID."""
        return [claim for claim in self.all() if claim.domain == domain]

    @contextlib.contextmanager
    def closed(self, vfs: Iterable[PciAddress]) -> Iterator[None]:
        """Refuse claims on these VFs while their PF creates its VFs again. Raises Refused when one is claimed."""
        closed = frozenset(vfs)
        with self.lock:
            for vf in sorted(closed):
                claim = self._claims.get(vf)
                if claim is not None:
                    raise Refused(
                        f"VF {vf} belongs to guest '{claim.domain_name}'", "migrate it away, or shut it down"
                    )
            self._closed = closed
        try:
            yield
        finally:
            with self.lock:
                self._closed = frozenset()

    def put(self, claim: Claim) -> Claim:
        """Write a claim, new or changed; what it replaces must have been looked at under `lock`.

        Returns the claim with its time of change. Raises HostError when it cannot be written, Refused while the VF's
        PF is being provisioned: then nothing changed.
        """
        with self.lock:
            if claim.vf in self._closed:
                raise Refused(
                    f"VF {claim.vf} cannot be taken: its PF is being provisioned", "try again in a minute"
                )
            claim = replace(claim, since=self.clock())
            path = self._directory / f"{claim.vf}.json"
            new = path.with_suffix(".new")
            try:
                descriptor = os.open(
                    new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
                )
                with open(descriptor, "w", encoding="utf-8") as file:
                    file.write(encode(claim))
                new.rename(path)
            except OSError as error:
                with contextlib.suppress(OSError):
                    new.unlink()
                raise HostError(f"cannot write the claim on {claim.vf}: {path}: {error.strerror}") from None
            self._claims[claim.vf] = claim
            return claim

    def drop(self, claim: Claim) -> bool:
        """Remove a claim if it is still this one; False when it is gone or the VF has a newer owner."""
        with self.lock:
            current = self._claims.get(claim.vf)
            if current is None or current.id != claim.id:
                return False
            try:
                (self._directory / f"{claim.vf}.json").unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                raise HostError(f"cannot drop the claim on {claim.vf}: {error.strerror}") from None
            del self._claims[claim.vf]
            return True

    def change(self, claim: Claim, **changes: Any) -> Optional[Claim]:
        """Change a claim if it is still this one; None when it is gone or the VF has a newer owner."""
        with self.lock:
            current = self._claims.get(claim.vf)
            if current is None or current.id != claim.id:
                return None
            return self.put(replace(current, **changes))
