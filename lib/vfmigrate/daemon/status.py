# SPDX-License-Identifier: GPL-2.0-or-later
"""What this host's pools, PFs, VFs and claims look like now, as plain values for the CLI and for other programs.

Reads only, with a bounded number of questions to each door however many VFs there are; never asks libvirt. What is
wrong is said in words, as `problems` of the pool, the PF or the VF that has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.config.pool import NONE, UPLINK_OF_PF, Pool
from vfmigrate.converge.observe import VfState
from vfmigrate.converge.plan import steps, taken_back, wanted
from vfmigrate.converge.services import HostServices
from vfmigrate.converge.vf_use import User
from vfmigrate.daemon.observation import ObservedPf, ObservedPool, ObservedVf, Observer
from vfmigrate.errors import VfmigrateError
from vfmigrate.model.host_facts import SwitchFacts
from vfmigrate.model.pci import PciAddress
from vfmigrate.model.vfio import MigrationSupport
from vfmigrate.ovs.offload import OFF, RESTART
from vfmigrate.provision import pf
from vfmigrate.provision.pf import PfState
from vfmigrate.reservations.migration_slots import MigrationSlots
from vfmigrate.text import quoted

SCHEMA = 1


@dataclass(frozen=True)
class VfStatus:
    """One VF; its fields are those of the answer (docs/json.md)."""

    address: str
    driver: Optional[str]
    migratable: Optional[bool]
    msix: Optional[int]
    representor: Optional[str]
    link_up: Optional[bool]
    bridge: Optional[str]
    tag: Optional[int]
    holder: Optional[str]
    guest: Optional[str]
    claim: Optional[str]
    state: str
    problems: list[str]


@dataclass(frozen=True)
class PfStatus:
    """One PF; the fields of its card are in the answer only where the PF could be looked at."""

    address: str
    offload: Optional[str]
    migrating: int
    max_migrating: int
    vfs: list[VfStatus]
    problems: list[str]
    observed: bool = False
    psid: Optional[str] = None
    firmware: Optional[str] = None
    mode: Optional[str] = None
    #: what the driver answered for a free VF, or why none was asked
    support: Optional[MigrationSupport] = None
    support_unknown: Optional[str] = None

    def plain(self) -> dict[str, Any]:
        """The PF as in the answer."""
        # not asdict(), which copies each value deeply: that took half of the time of a status
        fields = {**vars(self), "vfs": [dict(vars(vf)) for vf in self.vfs]}
        fields["support"] = dict(vars(self.support)) if self.support is not None else None
        if not fields.pop("observed"):
            for key in ("psid", "firmware", "mode", "support", "support_unknown"):
                del fields[key]
        return fields


@dataclass(frozen=True)
class PoolStatus:
    """One pool; its fields are those of the answer."""

    name: str
    bridge: str
    vlan: Optional[int]
    vlans: list[int]
    network: Optional[str]
    pfs: list[PfStatus]
    problems: list[str]

    def plain(self) -> dict[str, Any]:
        """The pool as in the answer."""
        return {**vars(self), "pfs": [each.plain() for each in self.pfs]}


class Status:
    """Collects the status of a host."""

    def __init__(
        self,
        services: HostServices,
        observer: Observer,
        slots: MigrationSlots,
        *,
        missing: Callable[[Claim], Optional[str]] = lambda _claim: None,
    ) -> None:
        """`missing` says what keeps a VF from its guest."""
        self._host = services.host
        self._store = services.store
        self._observer = observer
        self._slots = slots
        self._missing = missing

    def collect(self) -> dict[str, Any]:
        """Pools with their PFs and VFs, and every claim. What cannot be looked at says why in `problems`."""
        switch = self._observer.switch()
        pools = [self._pool(observed, switch).plain() for observed in self._observer.pools()]
        return {
            "schema": SCHEMA,
            "problems": list(map(str, self._observer.problems())),
            "pools": pools,
            "claims": [claim_store.plain(claim) for claim in self._store.all()],
        }

    def _switch_problems(self, switch: SwitchFacts) -> list[str]:
        if switch.problem is not None:
            return [switch.problem]
        if switch.unknown is not None:
            return [switch.unknown]
        if switch.offload == RESTART:
            unit = self._observer.switch_unit
            return [f"hardware offload is on but has no effect yet: systemctl restart {quoted(unit)}"]
        if switch.offload == OFF:
            return ["hardware offload of Open vSwitch is off: run vfmigrate provision"]
        return []

    def _pool(self, observed: ObservedPool, switch: SwitchFacts) -> PoolStatus:
        pool = observed.pool
        problems = self._switch_problems(switch)
        if observed.bridge_exists is False:
            problems.append(f"there is no bridge {pool.bridge}: run vfmigrate provision")
        pfs = [self._pf(pool, each, switch.offload) for each in observed.pfs]
        try:
            problems += self._uplink_problems(observed)
        except VfmigrateError as error:
            problems.append(str(error))
        problems += self._not_spread(pool)
        problems += [str(finding) for finding in observed.findings]
        if observed.findings_problem is not None:
            problems.append(observed.findings_problem)
        return PoolStatus(
            name=pool.name,
            bridge=pool.bridge,
            vlan=pool.vlan,
            vlans=sorted(pool.vlans),
            network=pool.libvirt_network,
            pfs=pfs,
            # What is wrong with the switch as a whole comes up more than once.
            problems=list(dict.fromkeys(problems)),
        )

    def _not_spread(self, pool: Pool) -> list[str]:
        """The guests that have several VFs of a pool with several PFs, and all of them on one."""
        own: dict[str, tuple[str, list[Optional[PciAddress]]]] = {}
        for claim in self._store.all() if len(pool.pfs) > 1 else ():
            if claim.pool == pool.name and claim.state == PLUGGED:
                _, pfs = own.setdefault(claim.domain, (claim.domain_name, []))
                pfs.append(self._host.sysfs.physfn(claim.vf))
        return [
            f"guest '{name}' has its {len(pfs)} VFs on PF {pfs[0]} only, and loses all of them with its port"
            for name, pfs in own.values()
            if len(pfs) > 1 and len(set(pfs)) == 1
        ]

    def _uplink_problems(self, observed: ObservedPool) -> list[str]:
        """Whether frames can leave the bridge; a PF has other network devices beside its representors at times."""
        pool = observed.pool
        if pool.uplink == NONE or observed.bridge_exists is False:
            return []
        if observed.bridge_problem is not None:
            return [observed.bridge_problem]
        candidates = [[pool.uplink]] if pool.uplink != UPLINK_OF_PF else []
        for state in observed.states.values() if not candidates else ():
            representors = {vf.representor for vf in state.vfs}
            candidates.append(sorted(set(self._host.sysfs.netdevs(state.pf)) - representors))
        return [
            f"uplink {' or '.join(names)} is not plugged into {pool.bridge}: run vfmigrate provision"
            for names in candidates
            if names and not any(self._host.ovs.bridge_of(name) == pool.bridge for name in names)
        ]

    def _pf(self, pool: Pool, observed: ObservedPf, offload: Optional[str]) -> PfStatus:
        status = PfStatus(
            address=str(observed.address),
            offload=offload,
            migrating=len(self._slots.guests(observed.address)),
            max_migrating=observed.at_most,
            vfs=[],
            problems=[observed.problem] if observed.problem is not None else [],
        )
        state, card = observed.state, observed.card
        if state is None or card is None:
            return status  # that there is no such device is among the findings
        return replace(
            status,
            vfs=[self._vf(pool, state, vf) for vf in observed.vfs],
            problems=pf_problems(pool, state),
            observed=True,
            psid=card.psid,
            firmware=card.firmware,
            mode=state.mode,
            support=observed.answer.support,
            support_unknown=observed.answer.unknown,
        )

    def _vf(self, pool: Pool, state: PfState, observed: ObservedVf) -> VfStatus:
        vf, claim = observed.state, observed.claim
        port = vf.switch_port
        standby = self._on_standby(claim)
        missing = self._missing(claim) if claim is not None else None
        held = "standby" if standby or missing else claim.state if claim else None
        releasing = self._store.releasing(vf.vf) if claim is None else None
        if releasing is not None:
            held, problems = releasing.state, releasing_problems(pool, vf, releasing)
        else:
            problems = vf_problems(pool, state, vf, claim, standby=standby)
        if missing and claim is not None:
            problems.insert(0, f"guest '{claim.domain_name}' runs without it: {missing}")
        of_file = self._store.problem(vf.vf)
        if of_file is not None:
            problems.append(str(of_file))
        owner = claim or releasing
        return VfStatus(
            address=str(vf.vf),
            driver=vf.driver,
            migratable=vf.migratable,
            msix=observed.msix,
            representor=vf.representor,
            link_up=vf.link_up,
            bridge=port.bridge if port else None,
            tag=port.tag if port else None,
            holder=observed.holder,
            guest=owner.domain_name if owner else None,
            claim=owner.id if owner else None,
            state=held or ("in use" if observed.use is not None else "free"),
            problems=problems,
        )

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


def releasing_problems(pool: Pool, vf: VfState, releasing: Claim) -> list[str]:
    """What is left on a VF of the guest that had it last."""
    whose = f"guest '{releasing.domain_name}' no longer uses it"
    if vf.in_use:
        return [f"{whose}, and a process still uses it"]
    want = taken_back(wanted(None, pool), vf, releasing)
    return [f"{whose}; still to do: {step.text}" for step in steps(vf, want)]


def vf_problems(
    pool: Pool, state: PfState, vf: VfState, claim: Optional[Claim], *, standby: bool = False
) -> list[str]:
    """How a VF differs from what its claim, or its being free, asks for; a VF the host uses may be as it likes."""
    problems = []
    if pool.msix is not None and state.msix[vf.vf] != pool.msix:
        problems.append(f"it has {state.msix[vf.vf]} MSI-X vectors, {pool.msix} are configured")
    if claim is None and vf.vf in state.uses:
        if state.uses[vf.vf].user is User.PROCESS:
            problems.append(f"it is {state.uses[vf.vf].text} without a claim")
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
