# SPDX-License-Identifier: GPL-2.0-or-later
"""Follows which guests have the VF of their failover pair, and which are on their standby.

QEMU unplugs the VF when a migration sets up and plugs it in again after it, and after one that failed; no event of
libvirt announces either, and QEMU keeps a VF open that it has unplugged. The VF itself shows it: the guest's driver
switches bus mastering on when it takes it, and off when it releases it. Standby and VF have one MAC, so meanwhile
the VF's port may be in the bridge only while the guest uses it, or frames for the standby would go there.

Looking is one read of sysfs for each such VF.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Callable, Optional

from vfmigrate import journal
from vfmigrate.announce.announcer import Announcer
from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.converge.services import Apart, HostServices
from vfmigrate.errors import VfmigrateError

#: seconds between two looks while there are failover pairs: for this long a guest can lose traffic when it takes or
#: releases its VF
_PERIOD = 0.1
#: seconds between two looks for the first failover pair
_IDLE_PERIOD = 1.0
#: seconds after a migration until the VF is plugged in again that the guest does not use
_PATIENCE = 60.0
#: seconds until a change that could not be followed is tried again
_PAUSE = 3.0
#: how often plugging the VF in again is tried, each time after twice as long
ATTEMPTS = 5


@dataclass
class _Look:
    """What was last seen of the VF of one claim."""

    #: the guest's driver has it, and its port is as it should be; None: not known
    driven: Optional[bool] = None
    #: when a change that could not be followed is to be followed again
    again: float = 0.0
    #: when it is time to do something about a guest without its VF; None: never
    due: Optional[float] = None
    attempts: int = 0
    #: when the guest took it
    joined: float = 0.0
    #: a change is being followed
    busy: bool = False


class PrimaryWatch:
    """Plugs a VF's port when its guest takes the VF, and removes it when the guest releases the VF."""

    def __init__(
        self,
        services: HostServices,
        announcer: Announcer,
        *,
        replug: Callable[[Claim], None],
        apart: Apart = lambda work, _name: work(),
    ) -> None:
        """`replug` plugs the VF of a claim into its guest again; it may wait, in a thread of its own.

        `apart` does work in a thread of its own, so that a card or switch that hangs delays no other guest.
        """
        self._host = services.host
        self._store = services.store
        self._converger = services.converger
        self._announcer = announcer
        self._log = services.log
        self._replug = replug
        self._apart = apart
        self._looks: dict[str, _Look] = {}
        self._lock = threading.Lock()
        self._expected: set[str] = set()
        self._stop = threading.Event()

    def start(self) -> None:
        """Start following."""
        threading.Thread(target=self._run, name="primary", daemon=True).start()

    def stop(self) -> None:
        """End following."""
        self._stop.set()

    def expect(self, domain: str) -> None:
        """A guest runs here after a migration, or after one that failed: its driver must use its VF soon."""
        with self._lock:
            self._expected.add(domain)

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD if self._looks else _IDLE_PERIOD):
            self._log.attempt("primary-watch-failed", self.look)

    def look(self) -> None:
        """Look at every failover pair once, and act on what changed."""
        claims = [
            claim
            for claim in self._store.all()
            if claim.traits.port_follows_driver and claim.state == PLUGGED
        ]
        for gone in set(self._looks) - {claim.id for claim in claims}:
            del self._looks[gone]
        with self._lock:
            expected, self._expected = self._expected, set()
        for claim in claims:
            try:
                self._look_at(claim, expected=claim.domain in expected)
            except VfmigrateError as error:
                self._log_failure(claim, error)

    def _log_failure(self, claim: Claim, error: VfmigrateError) -> None:
        self._log.failed("converge-failed", error, about=f"VF {claim.vf}", vf=str(claim.vf))

    def _look_at(self, claim: Claim, *, expected: bool) -> None:
        driven = self._host.sysfs.bus_master(claim.vf)
        now = self._store.clock()
        look = self._looks.setdefault(claim.id, _Look())
        if expected:
            look.due, look.attempts = now + _PATIENCE, 0
        if driven and look.driven is not True:
            look.joined = now
        # An unplug that was asked for as part of an attempt may be granted late, to a guest that has its VF by then.
        late = look.driven and not driven and look.attempts > 0 and now < look.joined + _PATIENCE
        if driven != look.driven and now >= look.again and not look.busy:
            look.again, look.busy = now + _PAUSE, True
            self._apart(lambda: self._follow(claim, look, driven), "primary-changed")
        if late:
            look.due = now + _PATIENCE
        if driven:
            look.due = None
        elif look.due is not None and now >= look.due:
            self._try_again(claim, look, now)

    def _follow(self, claim: Claim, look: _Look, driven: bool) -> None:
        try:
            self._converger.converge(claim.vf)
            if driven or look.driven is not None:
                self._log_change(claim, driven)
            look.driven, look.again = driven, 0.0
        except VfmigrateError as error:
            self._log_failure(claim, error)
        finally:
            look.busy = False

    def _log_change(self, claim: Claim, driven: bool) -> None:
        what = "has its VF" if driven else "is on its standby"
        self._log.event(
            "vf-joined" if driven else "vf-left",
            f"guest '{claim.domain_name}' {what}: {claim.vf}",
            domain=claim.domain_name,
            uuid=claim.domain,
            vf=str(claim.vf),
        )
        if driven:
            self._announcer.announce_vf(claim)

    def _try_again(self, claim: Claim, look: _Look, now: float) -> None:
        look.attempts += 1
        if look.attempts > ATTEMPTS:
            look.due = None
            text, level = (
                f"stays on its standby after {ATTEMPTS} attempts to plug {claim.vf} in",
                journal.ERROR,
            )
        else:
            look.due = now + _PATIENCE * 2**look.attempts
            text, level = f"does not use {claim.vf}: plugging it in again", journal.WARNING
        self._log.event(
            "replug",
            f"guest '{claim.domain_name}' {text}",
            level=level,
            domain=claim.domain_name,
            uuid=claim.domain,
            vf=str(claim.vf),
            attempt=look.attempts,
        )
        if look.due is not None:
            self._replug(claim)
