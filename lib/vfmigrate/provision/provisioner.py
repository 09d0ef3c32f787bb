# SPDX-License-Identifier: GPL-2.0-or-later
"""Provisioning: make a host's cards, switch and libvirt network ready for the guests of its pools.

Look, compare with what the pool wants, apply what differs, look again. Nothing is remembered between two runs but
that Open vSwitch waits for a restart, so a run that was interrupted is finished by the next one, and a run that finds
everything right changes nothing. Called by a request that is no hook's: it may call libvirt and may take minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Optional

from vfmigrate import deadline, journal
from vfmigrate.cards.vendor import CardState
from vfmigrate.config.pool import NONE, UPLINK_OF_PF, Pool
from vfmigrate.converge import uplinks
from vfmigrate.converge.plan import Step, Verb
from vfmigrate.converge.services import HostServices
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError, Unreachable, UsageError, VfmigrateError
from vfmigrate.host.devlink import NoDevlinkError
from vfmigrate.host.udev import OwnedPf, Udev
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.bridge import OFFLOAD, differing
from vfmigrate.ovs.offload import HardwareOffload
from vfmigrate.polling import until
from vfmigrate.provision import pf, uplink
from vfmigrate.provision.device_query import DeviceQuery
from vfmigrate.provision.networks import Networks
from vfmigrate.provision.pf import PfState
from vfmigrate.rpc import protocol
from vfmigrate.rules import findings, spread
from vfmigrate.rules.findings import ERROR, WARNING, Finding, PfObservation
from vfmigrate.text import quoted

SCHEMA = 1
# What was planned on a prediction (the addresses of VFs to come) is planned again on what came.
_ROUNDS = 3
_OTHER_RUN = Door("another provisioning", "see journalctl -u vfmigrated", verb="did not end")


@dataclass
class PoolResult:
    """The result for one pool: what was changed (or would be), what was found, and the error that stopped it."""

    pool: str
    #: in words: what was done in the past tense; for a dry run, what would be done in the imperative
    changes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    error: Optional[VfmigrateError] = None

    def plain(self) -> dict[str, Any]:
        """For the answer to the CLI."""
        return {
            "pool": self.pool,
            "changes": self.changes,
            "findings": [finding.plain() for finding in self.findings],
            "error": protocol.plain(self.error) if self.error else None,
        }


class Provisioner:
    """Provisions pools, one run at a time."""

    def __init__(
        self,
        services: HostServices,
        networks: Networks,
        *,
        udev: Udev,
        offload: HardwareOffload,
        query: DeviceQuery,
    ) -> None:
        self._config = services.config
        self._host = services.host
        self._store = services.store
        self._networks = networks
        self._log = services.log
        self._udev = udev
        self._offload = offload
        self._query = query
        self._running = threading.Lock()

    def publish_devices(self) -> None:
        """Have udev know the PFs of all pools and their VFs: when the configuration is read, and when a card appears.

        Raises HostError.
        """
        sysfs = self._host.sysfs
        changed = self._udev.publish(
            OwnedPf(
                address,
                list(dict.fromkeys([*self._possible_vfs(address), *sysfs.vfs(address)])),
                pool.representor_names == "stable",
            )
            for pool in self._config.pools.values()
            for address in pool.pfs
            if sysfs.exists(address)
        )
        for address in changed:
            if sysfs.exists(address):
                sysfs.announce_change(address)

    def _possible_vfs(self, pf: PciAddress) -> list[PciAddress]:
        """The VFs that a PF can have; none for a device that can have no VFs, which is among the findings."""
        sysfs = self._host.sysfs
        return sysfs.vf_addresses(pf, sysfs.totalvfs(pf)) if sysfs.is_pf(pf) else []

    def provision(
        self, names: Sequence[str] = (), *, dry_run: bool = False, patience: float = 0.0
    ) -> dict[str, Any]:
        """Provision these pools, or all if none is named; a failure of one does not stop the others.

        `patience` is for how many seconds cards may still be missing, as they are while a host boots. Raises
        UsageError for a pool that there is not.
        """
        for name in names:
            if name not in self._config.pools:
                there_are = ", ".join(sorted(self._config.pools)) or "none"
                raise UsageError(f"there is no pool '{name}'", f"the pools are: {there_are}")
        with self._alone():
            pools = [self._config.pools[name] for name in names or self._config.pools]
            end = time.monotonic() + patience  # one for all: several absent cards are waited for once
            outcomes = [self._pool(pool, dry_run, end) for pool in pools]
        return {"schema": SCHEMA, "dry_run": dry_run, "pools": [outcome.plain() for outcome in outcomes]}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with deadline.waiting(_OTHER_RUN, threading.TIMEOUT_MAX) as seconds:
            if not self._running.acquire(timeout=seconds):
                raise _OTHER_RUN.silent(seconds)
        try:
            yield
        finally:
            self._running.release()

    def provision_pf(
        self, address: PciAddress, *, dry_run: bool = False, patience: float = 0.0
    ) -> dict[str, Any]:
        """Provision the pool of a PF that has appeared; nothing for a PF of no pool."""
        pool = self._config.pool_of(address)
        if pool is None:
            return {"schema": SCHEMA, "dry_run": dry_run, "pools": []}
        return self.provision([pool.name], dry_run=dry_run, patience=patience)

    def check(
        self,
        pool: Pool,
        states: Mapping[PciAddress, PfState] = MappingProxyType({}),
        *,
        ask_tool: bool = False,
    ) -> list[Finding]:
        """All problems of a pool now.

        `states` are PFs that have been looked at already. `ask_tool` also asks the tool of the card's vendor, which
        is slow.
        """
        found = findings.of_bridge(pool, list(self._config.pools.values()))
        found += self._of_traffic(pool)
        for address in pool.pfs:
            facts = self._facts(pool, address, states.get(address), ask_tool)
            found += findings.of_pf(pool, facts)
        return list(dict.fromkeys(found))  # what holds for every card of the host is reported once

    def _of_traffic(self, pool: Pool) -> list[Finding]:
        """The findings about the way of a guest's frames, as far as it can be seen; the rest reports what cannot."""
        datapath, mtus = None, {}
        with suppress(Unreachable):
            datapath = self._host.ovs.datapath(pool.bridge)
        with suppress(HostError):
            mtus = {link.name: link.mtu for link in uplinks.devices(self._host, pool)}
        return findings.of_traffic(pool, datapath, mtus)

    # -- one pool

    def _pool(self, pool: Pool, dry_run: bool, end: float) -> PoolResult:
        outcome = PoolResult(pool.name)
        try:
            remaining = end - time.monotonic()
            if remaining > 0:
                until(lambda: self._has_appeared(pool), remaining, pf.POLL_SECONDS)
            if not dry_run:
                self._ask(pool, again=True)
            self._check(pool, outcome)
            if dry_run:
                outcome.changes = [step.text for step in self._plan(pool, outcome) if not step.silent]
            else:
                self.publish_devices()
                self._apply(pool, outcome)
        except VfmigrateError as error:
            outcome.error = error
        self._tell(pool, outcome, dry_run)
        return outcome

    def _has_appeared(self, pool: Pool) -> bool:
        """Whether all the pool's PFs are there, run by their drivers, and their ports named for good."""
        for address in pool.pfs:
            if not self._host.sysfs.exists(address) or self._host.sysfs.driver(address) is None:
                return False
            try:
                ports = [port for port in self._host.devlink.ports(address) if port.flavour == "physical"]
            except HostError:  # the driver is not done yet
                return False
            if not any(port.ifindex is not None and self._udev.settled(port.ifindex) for port in ports):
                return False
        return pool.uplink in (NONE, UPLINK_OF_PF) or uplinks.is_complete(self._host, pool)

    def _check(self, pool: Pool, outcome: PoolResult) -> None:
        found = self.check(pool, ask_tool=True)
        outcome.findings += [finding for finding in found if finding not in outcome.findings]
        errors = [finding for finding in found if finding.severity == ERROR]
        if errors:
            raise HostError(f"pool '{pool.name}' is not provisioned: {errors[0].text}", errors[0].remedy)

    def _apply(self, pool: Pool, outcome: PoolResult) -> None:
        for _ in range(_ROUNDS):
            todo = self._plan(pool, outcome)
            if not todo:
                self._ask(pool)
                self._check(pool, outcome)  # also of the VFs that were not there before
                return
            if any(pf.is_disruptive(pool, state) for state in self._states(pool)):
                with self._store.closed(vf for each in pool.pfs for vf in self._host.sysfs.vfs(each)):
                    self._run(todo, outcome)
            else:
                self._run(todo, outcome)
        left = [step.text for step in self._plan(pool, outcome)]
        if left:
            raise HostError(
                f"pool '{pool.name}' was provisioned, but something changed the host again: still to do: {left[0]}",
                "see journalctl -k and whether something else configures this card",
            )

    def _ask(self, pool: Pool, *, again: bool = False) -> None:
        """Ask a free VF of each PF whether it can migrate, unless that is known.

        `again`: an answer that it cannot may be out of date, since an administrator has perhaps changed the firmware.
        """
        for address in pool.pfs:
            if again:
                self._query.forget(address)
            if self._host.sysfs.exists(address):
                self._query.ask(address)

    def _run(self, todo: Sequence[Step], outcome: PoolResult) -> None:
        for step in todo:
            step.run(self._host)
            if not step.silent:
                outcome.changes.append(step.done)
                self._log.event("provision", f"pool '{outcome.pool}': {step.done}", pool=outcome.pool)

    def _tell(self, pool: Pool, outcome: PoolResult, dry_run: bool) -> None:
        if dry_run:
            return
        for finding in outcome.findings:
            level = journal.ERROR if finding.severity == ERROR else journal.WARNING
            self._log.event("finding", f"pool '{pool.name}': {finding}", level=level, pool=pool.name)
        if outcome.error is not None:
            text = f"pool '{pool.name}': {outcome.error}"
            self._log.event("provision-failed", text, level=journal.ERROR, pool=pool.name)
        elif not outcome.changes:
            self._log.event("provision", f"pool '{pool.name}': nothing to change", pool=pool.name)

    # -- the plan

    def _states(self, pool: Pool) -> list[PfState]:
        return [pf.observe(self._host, self._store, pool, address) for address in pool.pfs]

    def _plan(self, pool: Pool, outcome: PoolResult) -> list[Step]:
        """Every step that is needed now; what cannot be done yet becomes a warning of the outcome."""
        states = self._states(pool)
        todo: list[Step] = []
        vfs: list[list[PciAddress]] = []
        pooled = [address for each in self._config.pools.values() for address in each.pfs]
        for state in states:
            todo += pf.steps(pool, state, self._udev)
            if state.mode != pf.SWITCHDEV:
                uplink.refuse_to_break_bond(self._host, self._store, state.pf, pooled)
                late = uplink.late_for_bond(self._host, state.pf)
                _warn(outcome, [late] if late is not None else [])
            _warn(outcome, pf.pending(pool, state))
            vfs.append(self._host.sysfs.vf_addresses(state.pf, pf.wanted_count(pool, state)))
        todo += self._switch_steps(pool, outcome)
        try:
            todo += self._networks.steps(pool, spread.interleaved(vfs))
        except Unreachable as error:
            _warn(outcome, [self._networks.unreachable_warning(pool, error)])
        return todo

    def _switch_steps(self, pool: Pool, outcome: PoolResult) -> list[Step]:
        ovs, todo = self._host.ovs, []
        missing = differing(ovs.settings(), OFFLOAD)
        if missing:
            settings = " ".join(f"{key}={value}" for key, value in sorted(missing.items()))
            todo.append(
                Step(
                    Verb.SET,
                    f"other_config {settings} of Open vSwitch",
                    lambda _: self._offload.configure(ovs, missing),
                )
            )
        todo += self._restart_steps(pool, outcome, "hw-offload" in missing)
        if not ovs.bridge_exists(pool.bridge):
            todo.append(
                Step(Verb.CREATE, f"bridge {pool.bridge}", lambda host: host.ovs.add_bridge(pool.bridge))
            )
        for link in uplinks.devices(self._host, pool):
            todo += uplink.steps(self._host, pool, link)
            _warn(outcome, uplink.cut_off(self._host, pool, link))
        return todo

    def _restart_steps(self, pool: Pool, outcome: PoolResult, switched_on: bool) -> list[Step]:
        try:
            if not switched_on and not self._offload.pending():
                return []
        except HostError as error:
            _warn(outcome, [str(error)])
            return []
        how = f"systemctl restart {quoted(self._offload.unit)}"
        if not pool.restart_openvswitch:
            warning = f"hardware offload has no effect before Open vSwitch is restarted: {how}"
        elif self._store.all_valid():
            warning = "Open vSwitch must be restarted for hardware offload, and is not while guests have VFs"
        else:
            return [
                Step(Verb.RESTART, "Open vSwitch for hardware offload", lambda _: self._offload.restart())
            ]
        _warn(outcome, [warning])
        return []

    # -- what is found

    def _facts(
        self, pool: Pool, address: PciAddress, state: Optional[PfState], ask_tool: bool
    ) -> PfObservation:
        sysfs, vendor = self._host.sysfs, self._host.vendor(address)
        remedies = vendor.remedies(address, pool.vfs)
        if not sysfs.exists(address):
            return PfObservation(address, remedies, present=False)
        if not sysfs.is_pf(address):
            return PfObservation(address, remedies, sriov=False)
        driver = sysfs.driver(address)
        facts = PfObservation(address, remedies, driver=driver, infiniband=sysfs.is_infiniband(address))
        if driver is None or facts.infiniband:
            return facts
        try:
            card = self._host.card(address)
            state = state or pf.observe(self._host, self._store, pool, address)
        except NoDevlinkError:
            return replace(facts, devlink=False)
        except HostError as error:
            return replace(facts, refusal=error.problem)
        vfs = [vf.vf for vf in state.vfs]
        support = self._query.known(state, card).support
        of_card = CardState(
            address,
            psid=card.psid,
            firmware=card.firmware,
            stored_firmware=card.stored_firmware,
            firmware_min=pool.firmware_min,
            lacks_flag=pf.lacks_flag(state),
            can_migrate=support.stop_copy if support is not None else None,
        )
        return PfObservation(
            address,
            remedies,
            driver=driver,
            iommu=bool(sysfs.iommu_group(address)),
            totalvfs=sysfs.totalvfs(address),
            numvfs=sysfs.numvfs(address),
            vfio_driver=self._vfio_driver(address, vfs),
            support=support,
            shared_groups=self._shared_groups(vfs),
            of_card=list(vendor.findings(of_card, ask_tool=ask_tool and card.psid is not None)),
        )

    def _vfio_driver(self, address: PciAddress, vfs: Sequence[PciAddress]) -> Optional[str]:
        if vfs:
            return self._host.sysfs.variant_driver(vfs[0])
        modalias = self._host.sysfs.vf_modalias(address)
        return self._host.sysfs.driver_for(modalias) if modalias is not None else None

    def _shared_groups(self, vfs: Sequence[PciAddress]) -> Mapping[PciAddress, Sequence[PciAddress]]:
        groups = {vf: [other for other in self._host.sysfs.iommu_group(vf) if other != vf] for vf in vfs}
        return {vf: others for vf, others in groups.items() if others}


def _warn(outcome: PoolResult, texts: Sequence[str]) -> None:
    for text in texts:
        finding = Finding(WARNING, text)
        if finding not in outcome.findings:
            outcome.findings.append(finding)
