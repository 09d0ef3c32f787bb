# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host's pools, PFs, VFs and claims look like now, as plain values for the CLI and for other programs.

Reads only, with a bounded number of questions to each door however many VFs there are; never asks libvirt. What is
wrong is said in words, as `problems` of the pool, the PF or the VF that has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, Optional

from vfmigrate.claims.claim_store import PLUGGED, Claim, told
from vfmigrate.config.configuration import NONE, UPLINK_OF_PF, Pool
from vfmigrate.converge.converger import steps, wanted
from vfmigrate.converge.observe import VfState
from vfmigrate.converge.services import HostServices
from vfmigrate.errors import VfmigrateError
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.offload import OFF, ON, RESTART, HardwareOffload
from vfmigrate.provision import pf
from vfmigrate.provision.pf import PfState
from vfmigrate.reservations.migration_slots import MigrationSlots, at_most
from vfmigrate.rules.findings import Finding

SCHEMA = 1

#: all that stands against a pool, given how its PFs are
Check = Callable[[Pool, Mapping[PciAddress, PfState]], Sequence[Finding]]


class Status:
    """Tells the status of a host."""

    def __init__(
        self,
        services: HostServices,
        offload: HardwareOffload,
        check: Check,
        slots: MigrationSlots,
        *,
        missing: Callable[[Claim], Optional[str]] = lambda _claim: None,
    ) -> None:
        """`missing` tells what keeps a VF from its guest, if anything does."""
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._offload = offload
        self._check = check
        self._slots = slots
        self._missing = missing

    def tell(self) -> dict[str, Any]:
        """Pools with their PFs and VFs, and every claim. What cannot be looked at says why in `problems`."""
        offload, troubles = self._offload_state()
        pools = [self._pool(pool, offload, troubles) for pool in self._config.pools.values()]
        return {"schema": SCHEMA, "pools": pools, "claims": [told(claim) for claim in self._store.all()]}

    def _offload_state(self) -> tuple[Optional[str], list[str]]:
        problems: dict[str, list[str]] = {
            ON: [],
            OFF: ["hardware offload of Open vSwitch is off: run vfmigrate provision"],
            RESTART: [
                f"hardware offload is on but has no effect yet: systemctl restart {self._offload.unit}"
            ],
        }
        try:
            state = self._offload.state(self._host.ovs)
        except VfmigrateError as error:
            return None, [str(error)]
        return state, problems[state]

    def _pool(self, pool: Pool, offload: Optional[str], troubles: Sequence[str]) -> dict[str, Any]:
        problems = [*troubles, *self._bridge_problems(pool)]
        states: dict[PciAddress, PfState] = {}
        pfs = [self._pf(pool, address, offload, states) for address in pool.pfs]
        for look in (self._uplink_problems, self._findings):
            try:
                problems += look(pool, states)
            except VfmigrateError as error:
                problems.append(str(error))
        # What is wrong with the switch as a whole comes up more than once.
        problems = list(dict.fromkeys(problems))
        return {
            "name": pool.name,
            "bridge": pool.bridge,
            "vlan": pool.vlan,
            "vlans": sorted(pool.vlans),
            "network": pool.libvirt_network,
            "pfs": pfs,
            "problems": problems,
        }

    def _bridge_problems(self, pool: Pool) -> list[str]:
        try:
            if not self._host.ovs.bridge_exists(pool.bridge):
                return [f"there is no bridge {pool.bridge}: run vfmigrate provision"]
        except VfmigrateError:
            pass  # told once, as what is wrong with the switch
        return []

    def _findings(self, pool: Pool, states: Mapping[PciAddress, PfState]) -> list[str]:
        return [str(finding) for finding in self._check(pool, states)]

    def _uplink_problems(self, pool: Pool, states: Mapping[PciAddress, PfState]) -> list[str]:
        """Whether frames can leave the bridge; a PF has other network devices beside its representors at times."""
        if pool.uplink == NONE or not self._host.ovs.bridge_exists(pool.bridge):
            return []
        candidates = [[pool.uplink]] if pool.uplink != UPLINK_OF_PF else []
        for state in states.values() if not candidates else ():
            representors = {vf.representor for vf in state.vfs}
            candidates.append(sorted(set(self._host.sysfs.netdevs(state.pf)) - representors))
        return [
            f"uplink {' or '.join(names)} is not plugged into {pool.bridge}: run vfmigrate provision"
            for names in candidates
            if names and not any(self._host.ovs.bridge_of(name) == pool.bridge for name in names)
        ]

    def _pf(
        self, pool: Pool, address: PciAddress, offload: Optional[str], states: dict[PciAddress, PfState]
    ) -> dict[str, Any]:
        told: dict[str, Any] = {
            "address": str(address),
            "offload": offload,
            "migrating": len(self._slots.guests(address)),
            "max_migrating": at_most(self._host, pool, address),
            "vfs": [],
            "problems": [],
        }
        if not self._host.sysfs.exists(address):
            return told  # the check says so
        try:
            state = states[address] = pf.observe(self._host, self._store, address)
            card = self._host.card(address)
        except VfmigrateError as error:
            told["problems"].append(str(error))
            return told
        told.update(psid=card.psid, firmware=card.firmware, mode=state.mode)
        told["vfs"] = [self._vf(pool, state, vf) for vf in state.vfs]
        told["problems"] = pf_problems(pool, state)
        return told

    def _vf(self, pool: Pool, state: PfState, vf: VfState) -> dict[str, Any]:
        claim = self._store.get(vf.vf)
        port = vf.switch_port
        standby = self._on_standby(claim)
        missing = self._missing(claim) if claim is not None else None
        held = "standby" if standby or missing else claim.state if claim else None
        problems = vf_problems(pool, state, vf, claim, standby=standby)
        if missing and claim is not None:
            problems.insert(0, f"guest '{claim.domain_name}' runs without it: {missing}")
        return {
            "address": str(vf.vf),
            "driver": vf.driver,
            "migratable": vf.migratable,
            "msix": state.msix[vf.vf],
            "representor": vf.representor,
            "link_up": vf.link_up,
            "bridge": port.bridge if port else None,
            "tag": port.tag if port else None,
            "holder": state.users.get(vf.vf),
            "guest": claim.domain_name if claim else None,
            "claim": claim.id if claim else None,
            "state": held or ("in use" if vf.vf in state.users else "free"),
            "problems": problems,
        }

    def _on_standby(self, claim: Optional[Claim]) -> bool:
        """Whether the guest of a failover pair runs without its VF."""
        if claim is None or not claim.traits.port_follows_driver or claim.state != PLUGGED:
            return False
        return not self._host.sysfs.bus_master(claim.vf)


def pf_problems(pool: Pool, state: PfState) -> list[str]:
    """What provisioning would change of a PF, in words."""
    problems = []
    if state.mode != pf.SWITCHDEV:
        problems.append(f"the eswitch is in {state.mode} mode: run vfmigrate provision")
    if pool.vfs is not None and state.numvfs != pool.vfs:
        problems.append(f"it has {state.numvfs} VFs, {pool.vfs} are configured: run vfmigrate provision")
    if state.autoprobe:
        problems.append("sriov_drivers_autoprobe is on: run vfmigrate provision")
    return problems


def vf_problems(
    pool: Pool, state: PfState, vf: VfState, claim: Optional[Claim], *, standby: bool = False
) -> list[str]:
    """How a VF differs from what its claim, or its being free, asks for; a VF the host uses may be as it likes."""
    problems = []
    if pool.msix is not None and state.msix[vf.vf] != pool.msix:
        problems.append(f"it has {state.msix[vf.vf]} MSI-X vectors, {pool.msix} are configured")
    if claim is None and vf.vf in state.users:
        if vf.in_use:
            problems.append(f"it is {state.users[vf.vf]} without a claim")
        return problems
    if standby and claim is not None:
        problems.append(f"guest '{claim.domain_name}' has not taken it, and runs on its standby")
    if state.mode == pf.SWITCHDEV and state.vendor.lacks_flag(vf.migratable):
        problems.append(state.vendor.cannot_migrate(str(state.pf)).text)
    try:
        want = wanted(claim, pool, driven=not standby)
        problems += [f"still to do: {step.text}" for step in steps(vf, want)]
    except VfmigrateError as error:
        problems.append(str(error))
    if vf.switch_port is not None and vf.switch_port.error:
        problems.append(f"Open vSwitch: {vf.switch_port.error}")
    return problems
