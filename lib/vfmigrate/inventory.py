# SPDX-License-Identifier: GPL-2.0-or-later
"""Gathers the facts of this host for those who judge whether a guest can come or go (facts.py).

Reads only, with a bounded number of questions to each door however many VFs there are. What a door does not tell is
said as such and keeps nothing else from being told. Asks libvirt whether guests are migrating, so it is never used for
a hook.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Callable, Optional

from vfmigrate import pf
from vfmigrate.bridge import OFFLOAD
from vfmigrate.claims import PLUGGED, Claim, ClaimStore
from vfmigrate.config import Config, Pool
from vfmigrate.errors import VfmigrateError
from vfmigrate.facts import FindingFacts, HostFacts, MigrationFacts, PfFacts, PoolFacts, SwitchFacts, VfFacts
from vfmigrate.host import Host
from vfmigrate.offload import OffloadRestart
from vfmigrate.pci import PciAddress
from vfmigrate.pf import PfState
from vfmigrate.status import Check
from vfmigrate.version import VERSION

QEMU_CONF = Path("/etc/libvirt/qemu.conf")

_SETTING = re.compile(r'^\s*(migration_\w+)\s*=\s*"?([^"\s#]*)"?', re.MULTILINE)


class Inventory:
    """Tells the facts of a host. `migrating` tells whether libvirt is at work on a guest, by its UUID."""

    def __init__(
        self,
        config: Config,
        host: Host,
        store: ClaimStore,
        offload: OffloadRestart,
        check: Check,
        migrating: Callable[[str], bool],
        *,
        qemu_conf: Path = QEMU_CONF,
    ) -> None:
        self._config = config
        self._host = host
        self._store = store
        self._offload = offload
        self._check = check
        self._migrating = migrating
        self._qemu_conf = qemu_conf

    def tell(self) -> HostFacts:
        """The facts as they are now."""
        moving = self._moving()
        return HostFacts(
            host=socket.gethostname(),
            vfmigrate=VERSION,
            kernel=os.uname().release,
            time=time.time(),
            switch=self._switch(),
            migration=migration_settings(self._qemu_conf),
            pools=tuple(self._pool(pool, moving) for pool in self._config.pools.values()),
            moving_at_once=min((pool.max_migrating for pool in self._config.pools.values()), default=4),
        )

    def _moving(self) -> frozenset[PciAddress]:
        """The VFs whose guests are on the way here, or away from here."""
        found = set()
        leaving: dict[str, bool] = {}
        for claim in self._store.all():
            if claim.strategy != "vfio":
                continue
            if not claim.incoming and claim.state == PLUGGED and claim.domain not in leaving:
                leaving[claim.domain] = self._leaves(claim)
            if claim.incoming or leaving.get(claim.domain, False):
                found.add(claim.vf)
        return frozenset(found)

    def _leaves(self, claim: Claim) -> bool:
        try:
            return self._migrating(claim.domain)
        except VfmigrateError:
            return False  # it has just ended, or libvirt does not run, and then nothing moves

    def _switch(self) -> SwitchFacts:
        running = self._offload.running()
        try:
            on = self._host.ovs.settings().get("hw-offload") == OFFLOAD["hw-offload"]
        except VfmigrateError as error:
            return SwitchFacts(problem=str(error), running=running)
        offload = "off" if not on else "restart" if self._offload.pending() else "on"
        return SwitchFacts(running=running, offload=offload)

    def _pool(self, pool: Pool, moving: frozenset[PciAddress]) -> PoolFacts:
        states: dict[PciAddress, PfState] = {}
        pfs = tuple(self._pf(address, states, moving) for address in pool.pfs)
        try:
            exists: Optional[bool] = self._host.ovs.bridge_exists(pool.bridge)
        except VfmigrateError:
            exists = None
        return PoolFacts(
            name=pool.name,
            bridge=pool.bridge,
            bridge_exists=exists,
            vlan=pool.vlan,
            vlans=tuple(sorted(pool.vlans)),
            network=pool.libvirt_network,
            pfs=pfs,
            findings=tuple(self._findings(pool, states)),
        )

    def _findings(self, pool: Pool, states: dict[PciAddress, PfState]) -> Sequence[FindingFacts]:
        try:
            found = self._check(pool, states)
        except VfmigrateError:
            return []  # what is not to be had is told where it belongs
        return [FindingFacts(each.severity, each.text, each.remedy) for each in found]

    def _pf(
        self, address: PciAddress, states: dict[PciAddress, PfState], moving: frozenset[PciAddress]
    ) -> PfFacts:
        if not self._host.sysfs.exists(address):
            return PfFacts(str(address), problem=f"there is no PCI device {address}")
        try:
            state = states[address] = pf.observe(self._host, self._store, address)
            card = self._host.card(address)
            vfs = tuple(self._vf(state, number, moving) for number in range(len(state.vfs)))
            variant = self._host.sysfs.variant_driver(state.vfs[0].vf) if state.vfs else None
        except VfmigrateError as error:
            return PfFacts(str(address), problem=str(error))
        return PfFacts(
            address=str(address),
            psid=card.psid,
            firmware=card.firmware,
            mode=state.mode,
            variant_driver=variant,
            vfs=vfs,
        )

    def _vf(self, state: PfState, number: int, moving: frozenset[PciAddress]) -> VfFacts:
        vf = state.vfs[number]
        claim = self._store.get(vf.vf)
        return VfFacts(
            address=str(vf.vf),
            driver=vf.driver,
            vfio=vf.vfio,
            migratable=vf.migratable,
            msix=state.msix[vf.vf],
            holder=state.users.get(vf.vf),
            guest=claim.domain if claim else None,
            mac=claim.mac if claim else None,
            state=claim.state if claim else None,
            strategy=claim.strategy if claim else None,
            moving=vf.vf in moving,
        )


def migration_settings(qemu_conf: Path) -> MigrationFacts:
    """Where libvirt says that migrations come in; its defaults where the file cannot be read."""
    try:
        text = qemu_conf.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return MigrationFacts()
    told = dict(_SETTING.findall(text))

    def number(key: str, otherwise: int) -> int:
        value = told.get(key, "")
        return int(value) if value.isdigit() and len(value) <= 5 else otherwise

    usual = MigrationFacts()
    return MigrationFacts(
        host=told.get("migration_host") or None,
        port_min=number("migration_port_min", usual.port_min),
        port_max=number("migration_port_max", usual.port_max),
    )
