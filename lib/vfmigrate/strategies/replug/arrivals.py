# SPDX-License-Identifier: GPL-2.0-or-later
"""Plug VFs into guests that migrated without them (strategy replug).

A claim with a `slot` is of a VF that was unplugged for a migration. On the destination it is plugged in when the guest
has arrived. On the source the command that unplugged it plugs it in again when the migration fails; this does when that
command has died. A failed attempt is repeated a few times, each time after twice as long. A guest that has arrived is
never sent back: it uses the other port of its bond meanwhile.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Callable, Optional

from vfmigrate import journal
from vfmigrate.claims.claim_store import PLUGGED, RESERVED, Claim
from vfmigrate.converge.services import Apart, HostServices
from vfmigrate.domain import device_text, pci_xml
from vfmigrate.domain.markup import Markup
from vfmigrate.domain.metadata import Mark
from vfmigrate.errors import VfmigrateError
from vfmigrate.model.pci import PciAddress
from vfmigrate.reservations.cleanup import Cleanup

if TYPE_CHECKING:
    from vfmigrate.virt.hypervisor import Hypervisor  # imports libvirt-python, which pure tests do without

#: seconds until a VF that could not be plugged in is tried again; each time after twice as long
PAUSE = 5.0
#: how often plugging it in is tried
ATTEMPTS = 6
#: seconds that the command which took a VF out has for migrating the guest or putting the VF back
PATIENCE = 120.0
#: seconds between two looks while there is something to look for
_PERIOD = 2.0
_IDLE_PERIOD = 30.0


def device(claim: Claim, kept: Optional[str] = None) -> str:
    """The device to be plugged in for a claim: the reserved VF, and all else as before.

    `kept` is the device that the guest had, from its metadata; without it, MAC and the guest's address are as before.
    """
    slot = PciAddress.parse(claim.slot or "")
    whole = device_text.with_vf(kept, claim.vf, mac=claim.mac, slot=slot)
    if whole is not None:
        return whole
    return (
        "<interface type='hostdev' managed='yes'>"
        f"<mac address='{escape(claim.mac or '')}'/>"
        f"<source>{pci_xml.render(claim.vf)}</source>{pci_xml.render(slot)}</interface>"
    )


@dataclass
class _Try:
    """The attempts for one claim."""

    attempts: int = 0
    #: not before this moment, in seconds of the store's clock
    again: float = 0.0
    why: str = ""


class Arrivals:
    """Looks after the claims with a slot, in a thread of its own, which may call libvirt."""

    def __init__(
        self,
        services: HostServices,
        hypervisor: Hypervisor,
        *,
        on_plugged: Callable[[str], None],
        apart: Apart = lambda work, _name: work(),
    ) -> None:
        """`on_plugged` is called with a domain that has its VF; it must return at once.

        `apart` does work in a thread of its own, so that a guest or card that hangs delays no other guest.
        """
        self._store = services.store
        self._converger = services.converger
        self._cleanup = Cleanup(services.store, services.converger, services.log)
        self._hypervisor = hypervisor
        self._log = services.log
        self._on_plugged = on_plugged
        self._apart = apart
        #: the ids of the claims that are being worked on
        self._busy: set[str] = set()
        #: changed for a claim by what works on it; a claim is worked on once at a time
        self._tries: dict[str, _Try] = {}
        self._forget = threading.Event()
        self._wake = threading.Event()
        self._stop = threading.Event()

    def start(self) -> None:
        """Start looking."""
        threading.Thread(target=self._run, name="arrivals", daemon=True).start()

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._wake.set()

    def expect(self, _domain: str) -> None:
        """A guest runs on after a migration, here or still here. Returns at once."""
        self._wake.set()

    def try_again(self) -> None:
        """Try again what was given up, as when an administrator asks for it."""
        self._forget.set()
        self._wake.set()

    def missing(self, claim: Claim) -> Optional[str]:
        """What keeps a VF from its guest, in words; None where nothing does."""
        current = self._tries.get(claim.id)
        return current.why or None if current is not None and claim.slot is not None else None

    def _run(self) -> None:
        while not self._stop.is_set():
            waiting = any(claim.slot is not None for claim in self._store.all())
            self._wake.wait(_PERIOD if waiting else _IDLE_PERIOD)
            self._wake.clear()
            if self._stop.is_set():
                return
            self._log.attempt("replug-failed", self.look)

    def look(self) -> None:
        """Plug in what is missing and due. Raises HostError or Unreachable when libvirt does not answer."""
        if self._forget.is_set():
            self._forget.clear()
            self._tries.clear()
        claims = [claim for claim in self._store.all() if claim.slot is not None and claim.mac is not None]
        for gone in self._tries.keys() - {claim.id for claim in claims}:
            self._tries.pop(gone, None)
        if not claims:
            return
        executing = self._hypervisor.executing()
        for claim in claims:
            if claim.domain in executing and claim.id not in self._busy and self._is_due(claim):
                self._busy.add(claim.id)
                self._apart(functools.partial(self._try, claim), "plug-in")

    def _try(self, claim: Claim) -> None:
        try:
            self._settle(claim)
        except VfmigrateError as error:
            self._fail(claim, error)
        finally:
            self._busy.discard(claim.id)

    def _is_due(self, claim: Claim) -> bool:
        now = self._store.clock()
        current = self._tries.get(claim.id)
        if current is not None:
            return current.attempts < ATTEMPTS and now >= current.again
        if claim.incoming:
            return True  # libvirt lets the device wait until it has done with the migration
        return now >= claim.since + PATIENCE and not self._hypervisor.migrating(claim.domain)

    def _settle(self, claim: Claim) -> None:
        if not self._hypervisor.has_vf(claim.domain, claim.mac or "", claim.vf):
            mark = self._wanted(claim)
            if mark is None:
                return
            self._plug(claim, mark)
            self._log_claim("replugged", claim, f"has {claim.vf} plugged in", journal.INFO)
        elif claim.state != PLUGGED:
            self._cleanup.release(claim)  # somebody gave it another, which the next reconcile adopts
        self._store.change(claim, slot=None)
        self._tries.pop(claim.id, None)
        self._on_plugged(claim.domain)

    def _wanted(self, claim: Claim) -> Optional[Mark]:
        """The mark of this VF in the guest's own metadata; without it the claim ends: anybody may have asked for it."""
        for mark in self._hypervisor.marks(claim.domain):
            if (mark.mac, mark.pool, mark.strategy) == (claim.mac, claim.pool, claim.strategy):
                return mark
        if self._store.drop(claim):
            self._converger.converge(claim.vf)
            self._log_claim(
                "replug-refused",
                claim,
                f"gets no VF with MAC {claim.mac} of pool '{claim.pool}': its metadata does not name one with "
                f"strategy {claim.strategy}",
                journal.WARNING,
            )
        return None

    def _plug(self, claim: Claim, mark: Mark) -> None:
        """The port first, as at every start: the guest's driver must find its link up."""
        text = device(claim, mark.device)
        root = Markup(text).root
        # libvirt sets no MAC on a plain <hostdev>, and binds no driver to what it does not manage
        taken = self._store.change(
            claim,
            state=PLUGGED,
            expires=None,
            set_mac=root.name == "hostdev",
            managed=root.attributes.get("managed") == "yes",
        )
        if taken is None:
            return
        try:
            self._converger.converge(claim.vf)
            self._hypervisor.plug(claim.domain, text)
        except VfmigrateError:
            back = self._store.note(claim, state=RESERVED)
            if back is not None:
                self._cleanup.converge(back)
            raise

    def _fail(self, claim: Claim, error: VfmigrateError) -> None:
        current = self._tries.setdefault(claim.id, _Try())
        current.attempts += 1
        pause = PAUSE * 2 ** (current.attempts - 1)
        current.again = self._store.clock() + pause
        if current.attempts < ATTEMPTS:
            rest, level = f"tried again in {pause:.0f} s", journal.WARNING
        else:
            rest, level = (
                f"given up after {ATTEMPTS} attempts; to try again, run: vfmigrate reconcile",
                journal.ERROR,
            )
        current.why = f"{error} ({rest})"
        self._log_claim("replug", claim, f"is without its VF {claim.vf}: {current.why}", level)

    def _log_claim(self, event: str, claim: Claim, text: str, level: int) -> None:
        self._log.event(
            event,
            f"guest '{claim.domain_name}' {text}",
            level=level,
            domain=claim.domain_name,
            uuid=claim.domain,
            vf=str(claim.vf),
            mac=claim.mac or "",
        )
