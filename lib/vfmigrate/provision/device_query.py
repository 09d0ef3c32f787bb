# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the VFs of a PF can migrate, by the answer of one of them: the last word, before all that can be inferred.

A free VF is bound to its variant driver, opened through VFIO, asked and closed again (host.vfio). The answer holds for
all VFs of the PF until firmware, driver, eswitch mode or the VFs change. An answer that VFs cannot migrate, and a
failure to ask, hold for ten minutes only, because a setting of the firmware may be behind them.

Only a VF that nobody has is asked: no claim, no process, no network device of the host. While it is asked, its lock is
held, so that a hook that takes it waits for about a second at most. libvirt takes the first free VF of a pool and the
hook the last, so one in the middle is asked; and none while a guest starts, stops or migrates on this PF.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Callable, Optional

from vfmigrate import journal
from vfmigrate.claims.claim_store import PLUGGED
from vfmigrate.converge.observe import VfState
from vfmigrate.converge.services import HostServices
from vfmigrate.errors import VfmigrateError
from vfmigrate.host.devlink_messages import CardVersions
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import GENERIC_DRIVER, MigrationSupport
from vfmigrate.provision import pf
from vfmigrate.provision.pf import PfState

#: seconds after which an answer other than "can migrate" is asked for again
RETRY_SECONDS = 600.0

NOT_ASKED = "no VF has been asked yet"


@dataclass(frozen=True)
class DeviceAnswer:
    """What is known of the VFs of one PF."""

    support: Optional[MigrationSupport] = None
    #: why there is no answer
    unknown: Optional[str] = NOT_ASKED


@dataclass(frozen=True)
class _Identity:
    """What an answer holds for."""

    driver: Optional[str]
    driver_identity: Optional[int]
    psid: Optional[str]
    firmware: Optional[str]
    mode: str
    vfs: tuple[PciAddress, ...]


@dataclass(frozen=True)
class _Entry:
    identity: _Identity
    answer: DeviceAnswer
    at: float


class DeviceQuery:
    """Asks VFs, and keeps the answers of this run of the daemon; thread-safe."""

    def __init__(self, services: HostServices, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._converger = services.converger
        self._log = services.log
        self._clock = clock
        self._entries: dict[PciAddress, _Entry] = {}
        # one question at a time, since each resets a device
        self._asking = threading.Lock()

    def known(self, state: PfState, card: CardVersions) -> DeviceAnswer:
        """The answer that holds for a PF as it was observed; asks nobody."""
        entry = self._entries.get(state.pf)
        if entry is None:
            return DeviceAnswer()
        identity = self._identity(state.mode, [vf.vf for vf in state.vfs], card)
        return entry.answer if identity == entry.identity else DeviceAnswer()

    def forget(self, address: PciAddress) -> None:
        """Have the PF asked again, unless it is known that its VFs can migrate."""
        entry = self._entries.get(address)
        if entry is not None and not _can_migrate(entry.answer):
            self._entries.pop(address, None)

    def ask(self, address: PciAddress) -> DeviceAnswer:
        """Ask a free VF of a PF, unless the answer is known; logs an answer that is new. Never raises."""
        with self._asking:
            try:
                return self._ask(address)
            except VfmigrateError as error:
                return DeviceAnswer(unknown=str(error))

    def _ask(self, address: PciAddress) -> DeviceAnswer:
        vfs = self._host.sysfs.vfs(address)
        card = self._host.card(address)
        mode = self._host.devlink.eswitch_mode(address)
        identity = self._identity(mode, vfs, card)
        entry = self._entries.get(address)
        if entry is not None and entry.identity == identity and not self._is_over(entry):
            return entry.answer
        pool = self._config.pool_of(address)
        if pool is None:
            return DeviceAnswer(unknown=f"PF {address} is in no pool")
        state = pf.observe(self._host, self._store, pool, address)
        vf, why = self._candidate(state, identity.driver)
        if vf is None or identity.driver is None:
            return DeviceAnswer(unknown=why)
        answer = self._ask_vf(vf, identity.driver)
        if answer is None:
            return DeviceAnswer(unknown=f"VF {vf} was taken when it was to be asked")
        # The driver may have been loaded for it.
        identity = self._identity(mode, vfs, card)
        before = entry.answer if entry is not None else None
        self._entries[address] = _Entry(identity, answer, self._clock())
        if answer != before:
            self._report(address, vf, answer)
        return answer

    def _is_over(self, entry: _Entry) -> bool:
        return not _can_migrate(entry.answer) and self._clock() >= entry.at + RETRY_SECONDS

    def _identity(self, mode: str, vfs: Iterable[PciAddress], card: CardVersions) -> _Identity:
        there = tuple(vfs)
        driver = self._host.sysfs.variant_driver(there[0]) if there else None
        return _Identity(
            driver=driver,
            driver_identity=self._host.sysfs.driver_identity(driver) if driver is not None else None,
            psid=card.psid,
            firmware=card.firmware,
            mode=mode,
            vfs=there,
        )

    def _candidate(self, state: PfState, driver: Optional[str]) -> tuple[Optional[PciAddress], str]:
        """The VF to ask, or why there is none."""
        if not state.vfs:
            return None, f"PF {state.pf} has no VFs"
        if driver == GENERIC_DRIVER:
            return None, f"this kernel has no variant driver for the VFs of PF {state.pf}"
        # The VFs of another mode can answer no, and a provisioning would stop at that before it changes the mode.
        if state.mode != pf.SWITCHDEV:
            return None, f"the eswitch of PF {state.pf} is in {state.mode} mode"
        claims = [self._store.get(vf.vf) for vf in state.vfs]
        if any(claim is not None and claim.state != PLUGGED for claim in claims):
            return None, f"a guest starts, stops or migrates on PF {state.pf}"
        free = [vf.vf for vf in state.vfs if vf.vf not in state.uses and _may_be_asked(vf, driver)]
        if not free:
            return None, f"PF {state.pf} has no free VF that may be asked"
        return free[len(free) // 2], ""

    def _ask_vf(self, vf: PciAddress, driver: str) -> Optional[DeviceAnswer]:
        """Ask a VF that was free; None if it is no more."""
        sysfs = self._host.sysfs
        with self._converger.hold(vf):
            # From here on a claim can come, but whoever makes it waits for the lock before the VF is touched.
            bound = sysfs.driver(vf)
            if self._store.get(vf) is not None or bound not in (None, driver) or sysfs.in_use(vf):
                return None
            try:
                # Bind it again: what the driver read when it was bound earlier may have changed.
                sysfs.unbind(vf)
                sysfs.bind(vf, driver)
                self._converger.bindings.rebound(vf)
                return DeviceAnswer(self._host.vfio.ask(vf, sysfs.vfio_nodes(vf), driver), None)
            except VfmigrateError as error:
                return DeviceAnswer(unknown=str(error))
            finally:
                if bound is None:
                    self._log.attempt("device-query-failed", lambda: sysfs.unbind(vf))

    def _report(self, address: PciAddress, vf: PciAddress, answer: DeviceAnswer) -> None:
        said = f"VF {vf} answers: {answer.support}" if answer.support is not None else answer.unknown
        level = journal.INFO if _can_migrate(answer) else journal.WARNING
        self._log.event("device-query", f"PF {address}: {said}", level=level, pf=str(address))


def _can_migrate(answer: DeviceAnswer) -> bool:
    return answer.support is not None and answer.support.stop_copy


def _may_be_asked(vf: VfState, driver: Optional[str]) -> bool:
    """Whether a free VF has no driver or the one to ask, and is ready: the driver reads `migratable` when it binds."""
    return not vf.in_use and vf.driver in (None, driver) and vf.migratable is not False
