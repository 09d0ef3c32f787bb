# SPDX-License-Identifier: GPL-2.0-or-later
"""Claims: which VF belongs to which interface of which domain, in which state, until when.

A claim is a small JSON file named after its VF under `/run/vfmigrate/claims` (`claim_files`). `/run` is emptied by a
reboot, as the VFs' users are. The daemon is the only writer; within it one lock spans looking and taking: take it
with `with store.lock:` around any sequence that decides on what it has seen.

A claim ends in two steps. It is first marked as releasing: it belongs to no guest any more, but only it knows what the
guest left on the VF. When that was removed (`converge`), the claim is dropped, and only then is the VF free.

Times are seconds of CLOCK_BOOTTIME: they go on while the host sleeps and do not jump with the wall clock.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Optional, Union

from vfmigrate.claims.claim_files import ClaimFiles
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
#: the guest has it no more; what is left of the guest on the VF is being removed
RELEASING = "releasing"
STATES = (RESERVED, PREPARED, PLUGGED, RELEASING)


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
    #: the ID of the migration by which its guest arrives, for the log; None for a guest that was started here
    trace: Optional[str] = None
    #: releasing, and libvirt has finished with the VF: what it set on the VF and did not reset is a left-over
    left: bool = False
    #: how many VFs of its guest with the same MAC stand before it in the guest's XML
    twin: int = 0
    #: VLANs in which the guest was seen to send on an open trunk, here or where it comes from; 0 is no tag
    seen_in: tuple[int, ...] = ()
    #: names this claim in Open vSwitch, so that a late clean-up cannot touch a successor's port
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def has_expired(self, now: float) -> bool:
        """Whether nobody needs the claim any more, so that its VF is free unless somebody else has it.

        `now` is CLOCK_BOOTTIME in seconds. A claim expires while its guest is expected: reserved before the guest
        begins to start, prepared before it starts, or stopped and not released. From `start` on it does not.
        """
        return self.expires is not None and self.expires < now

    @property
    def is_open_trunk(self) -> bool:
        """Whether its port has all VLANs."""
        return self.vlan is None and not self.trunks

    @property
    def traits(self) -> Strategy:
        """What its strategy asks of the VF."""
        return named(self.strategy)


def holder(claim: Claim) -> str:
    """Which guest has a claimed VF, in words."""
    if claim.state == RELEASING:
        return f"being released by guest '{claim.domain_name}'"
    verb = "held by" if claim.expires is None else "reserved for"
    return f"{verb} guest '{claim.domain_name}'"


#: fields that a file has only where they say something: an older daemon does not know them, and can read other claims
_SAID_ONLY = ("left", "twin", "seen_in", "trace")


def plain(claim: Claim) -> dict[str, Any]:
    """The claim of a guest as plain values."""
    origin = str(claim.origin) if claim.origin is not None else None
    values = {**vars(claim), "vf": str(claim.vf), "origin": origin}
    for key in _SAID_ONLY:
        del values[key]
    return values


def encode(claim: Claim) -> str:
    """The claim as its file holds it."""
    said = {key: value for key, value in vars(claim).items() if key in _SAID_ONLY and value}
    return json.dumps({"format": FORMAT, **plain(claim), **said}, sort_keys=True)


#: fields that a claim of an older daemon does not have
_ADDED = ("origin", "slot", *_SAID_ONLY)


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


def _decode_named(name: str, text: Union[str, InputError]) -> Union[Claim, InputError]:
    """The claim in the file of this name, or what is wrong with the file."""
    if isinstance(text, InputError):
        return text
    try:
        claim = decode(text)
    except InputError as error:
        return error
    return claim if name == str(claim.vf) else InputError(f"the claim is of {claim.vf}")


def _place(claim: Claim) -> tuple[int, int, int, int]:
    """The address of the claim's VF as what is quickest to compare: thousands of claims are sorted in a hook."""
    vf = claim.vf
    return vf.domain, vf.bus, vf.slot, vf.function


class ClaimStore:
    """All claims of this host.

    Reads the files once, at its start, and writes through. Files it cannot read are set aside under `.broken` and
    listed in `broken`: their VFs are adopted again from the running domains. Raises HostError when the directory cannot
    be used or another daemon owns it.
    """

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], float] = boottime,
        *,
        files: Callable[[Path], ClaimFiles] = ClaimFiles,
    ) -> None:
        self.lock = RankedLock(Rank.CLAIMS, "the claims")
        self.clock = clock
        self._closed: frozenset[PciAddress] = frozenset()
        #: files that were no claims, in words
        self.broken: list[str] = []
        self._files = files(directory)
        #: why the file of a claim is not as it should be
        self._problems: dict[PciAddress, HostError] = {}
        self._claims: dict[PciAddress, Claim] = dict(self._load())
        #: the same in the order of the VFs' addresses; None after a change, until it is needed
        self._in_order: Optional[list[Claim]] = None

    def close(self) -> None:
        """Give up the directory, so that another daemon may own it."""
        self._files.close()

    def _load(self) -> Iterator[tuple[PciAddress, Claim]]:
        for name, text in self._files.load():
            claim = _decode_named(name, text)
            if isinstance(claim, InputError):
                self.broken.append(f"{name}.json: {claim}")
                self._files.set_aside(name)
            else:
                yield claim.vf, claim

    # -- the claims of guests

    def all(self) -> list[Claim]:
        """Every claim of a guest, in the order of the VFs' addresses."""
        return [claim for claim in self._sorted() if claim.state != RELEASING]

    def get(self, vf: PciAddress) -> Optional[Claim]:
        """The claim of a guest on a VF, or None when no guest has it; it may have expired, or be in `releasing`."""
        with self.lock:
            claim = self._claims.get(vf)
            return claim if claim is not None and claim.state != RELEASING else None

    def _sorted(self) -> list[Claim]:
        with self.lock:
            if self._in_order is None:
                self._in_order = sorted(self._claims.values(), key=_place)
            return self._in_order.copy()

    def valid(self, vf: PciAddress) -> Optional[Claim]:
        """The claim of a guest on a VF that has not expired, or None."""
        claim = self.get(vf)
        return claim if claim is not None and not claim.has_expired(self.clock()) else None

    def all_valid(self) -> list[Claim]:
        """Every claim of a guest that has not expired, in the order of the VFs' addresses."""
        now = self.clock()
        return [claim for claim in self.all() if not claim.has_expired(now)]

    def blocking(self, vf: PciAddress) -> Optional[Claim]:
        """The claim that keeps a VF from being free: a guest's that has not expired, or one that is releasing."""
        return self.valid(vf) or self.releasing(vf)

    def of_domain(self, domain: str) -> list[Claim]:
        """The claims of the domain with this UUID, in the order of the VFs' addresses."""
        with self.lock:
            found = [claim for claim in self._claims.values() if claim.domain == domain]
        return sorted((claim for claim in found if claim.state != RELEASING), key=_place)

    @contextlib.contextmanager
    def closed(self, vfs: Iterable[PciAddress]) -> Iterator[None]:
        """Refuse claims on these VFs while their PF creates its VFs again. Raises Refused when one is claimed."""
        closed = frozenset(vfs)
        with self.lock:
            for vf in sorted(closed):
                claim = self.blocking(vf)
                if claim is not None and claim.state == RELEASING:
                    raise Refused(
                        f"VF {vf} is still being released by guest '{claim.domain_name}'",
                        "run: vfmigrate reconcile",
                    )
                if claim is not None:
                    raise Refused(
                        f"VF {vf} belongs to guest '{claim.domain_name}'", "migrate it to another host first"
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
            self._files.write(str(claim.vf), encode(claim))
            self._problems.pop(claim.vf, None)
            self._keep(claim)
            return claim

    def _keep(self, claim: Claim) -> None:
        self._claims[claim.vf] = claim
        self._in_order = None

    def change(self, claim: Claim, **changes: Any) -> Optional[Claim]:
        """Change a claim of a guest if it is still this one; None when it is gone or the VF has a newer owner.

        Raises HostError when it cannot be written: then nothing changed.
        """
        with self.lock:
            current = self._current(claim)
            return self.put(replace(current, **changes)) if current is not None else None

    def note(self, claim: Claim, **changes: Any) -> Optional[Claim]:
        """As `change`, for what has happened to the guest already, and so cannot be refused.

        Where it cannot be written it holds as long as the daemon runs, and `problem` says why. The file then still has
        an earlier state of the same claim, from which a reconcile comes to the same end.
        """
        with self.lock:
            current = self._current(claim)
            if current is None:
                return None
            changed = replace(current, since=self.clock(), **changes)
            self._keep(changed)
            self._rewrite(changed)
            return changed

    def _current(self, claim: Claim) -> Optional[Claim]:
        current = self.get(claim.vf)
        return current if current is not None and current.id == claim.id else None

    # -- files that could not be written or removed

    def problem(self, vf: PciAddress) -> Optional[HostError]:
        """Why the file of the claim on a VF is not as it should be; None where it is."""
        return self._problems.get(vf)

    def problems(self) -> list[HostError]:
        """Why files of claims are not as they should be, in the order of the VFs' addresses."""
        with self.lock:
            return [self._problems[vf] for vf in sorted(self._problems)]

    def rewrite(self) -> None:
        """Try again to write what could not be written."""
        with self.lock:
            for vf in list(self._problems):
                claim = self._claims.get(vf)
                if claim is not None:
                    self._rewrite(claim)

    def _rewrite(self, claim: Claim) -> None:
        try:
            self._files.write(str(claim.vf), encode(claim))
        except HostError as error:
            self._problems[claim.vf] = error
        else:
            self._problems.pop(claim.vf, None)

    # -- the end of a claim

    def release(self, claim: Claim, *, gone: bool = False) -> Optional[Claim]:
        """Mark a claim as releasing, if it is still this one; None when it is gone or the VF has a newer owner.

        `gone`: its guest is gone and libvirt has finished with the VF, so what libvirt left on it can be removed. A VF
        that was only reserved was never libvirt's. As `note`, it holds where it cannot be written.
        """
        with self.lock:
            current = self._current(claim)
            if current is None:
                return None
            return self.note(current, state=RELEASING, left=gone and current.state != RESERVED)

    def release_expired(self, vfs: Container[PciAddress]) -> list[Claim]:
        """Mark the claims on these VFs that have expired as releasing; returns them. For `gone`, see `release`."""
        with self.lock:
            now = self.clock()
            expired = [claim for claim in self.all() if claim.vf in vfs and claim.has_expired(now)]
            released = [self.release(claim, gone=True) for claim in expired]
            return [claim for claim in released if claim is not None]

    def releasing(self, vf: PciAddress) -> Optional[Claim]:
        """The claim on a VF that is releasing; None when there is none."""
        with self.lock:
            claim = self._claims.get(vf)
            return claim if claim is not None and claim.state == RELEASING else None

    def all_releasing(self) -> list[Claim]:
        """Every claim that is releasing, in the order of the VFs' addresses."""
        return [claim for claim in self._sorted() if claim.state == RELEASING]

    def drop(self, claim: Claim) -> bool:
        """Remove a claim if it is still this one; False when it is gone or the VF has a newer owner.

        Raises HostError when its file cannot be removed: then the claim stays, and `problem` says why.
        """
        with self.lock:
            current = self._claims.get(claim.vf)
            if current is None or current.id != claim.id:
                return False
            try:
                self._files.remove(str(claim.vf))
            except HostError as error:
                self._problems[claim.vf] = error
                raise
            self._problems.pop(claim.vf, None)
            del self._claims[claim.vf]
            self._in_order = None
            return True
