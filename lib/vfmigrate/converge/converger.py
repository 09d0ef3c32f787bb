# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the host match the claims, one VF at a time.

`Converger` observes a VF, plans (`plan`) and applies the steps; the modules of `host` and `ovs` verify each change. It
is idempotent and keeps no record of what it did: whatever was interrupted is finished by converging again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType
from typing import Callable, Optional

from vfmigrate.claims import claim_store
from vfmigrate.claims.claim_store import PLUGGED, RESERVED, Claim, ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import NONE, Pool
from vfmigrate.converge import uplinks, vf_use
from vfmigrate.converge.bindings import Bindings
from vfmigrate.converge.leftovers import Leftovers
from vfmigrate.converge.observe import Host, Surroundings, VfState
from vfmigrate.converge.plan import (
    Step,
    Wanted,
    cleaned,
    done,
    leftovers,
    steps,
    taken_back,
    takes_driver,
    unplug_steps,
    wanted,
)
from vfmigrate.deadline import Door
from vfmigrate.errors import HostError, Refused
from vfmigrate.locks import Rank, RankedLock
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import driver_binding
from vfmigrate.text import quoted


class Converger:
    """Converges VFs against the claims; one at a time for each VF."""

    def __init__(
        self,
        host: Host,
        config: Config,
        store: ClaimStore,
        *,
        libvirt_version: Callable[[], int] = lambda: driver_binding.KNOWS_VARIANTS,
    ) -> None:
        """`libvirt_version` returns the version in libvirt's numbering, without a call of libvirt."""
        self._libvirt_version = libvirt_version
        self._host = host
        self._config = config
        self._store = store
        self._uplink_indexes: dict[PciAddress, int] = {}
        self._locks: dict[PciAddress, RankedLock] = {}
        self._leftovers = Leftovers(store.clock, config.claim_timeout)
        #: which VFs were bound before they were migratable, as far as observed
        self.bindings = Bindings()

    def _lock(self, vf: PciAddress) -> RankedLock:
        # setdefault() is one step for all threads, which a defaultdict's __missing__ is not
        lock = self._locks.get(vf)
        if lock is not None:
            return lock
        door = Door(f"other work on VF {vf}", "see journalctl -u vfmigrated", verb="did not end")
        return self._locks.setdefault(vf, RankedLock(Rank.VF, f"VF {vf}", door))

    def hold(self, vf: PciAddress) -> AbstractContextManager[object]:
        """Keep everybody else from changing a VF; a hook operation on this VF waits meanwhile."""
        return self._lock(vf)

    def converge(self, vf: PciAddress) -> list[str]:
        """Make the host match the claim on `vf`; returns the changes made, in words.

        A VF whose claim is releasing is made free: what its guest left on it is removed, and then the claim is dropped.
        Raises HostError or Unreachable with the first change that failed; the changes before it stay, and so does a
        claim that is releasing.
        """
        with self._lock(vf):
            claim = self._store.get(vf)
            releasing = self._store.releasing(vf) if claim is None else None
            if releasing is not None and self._host.sysfs.physfn(vf) is None:
                self._store.drop(releasing)  # the VF is gone, with all that was on it
                return []
            state = self._host.observe(vf)
            self.bindings.note(state)
            state, todo = self._plan(state, claim, releasing)
            for step in todo:
                step.run(self._host)
            if todo and state.migratable is False and not state.in_use:
                self.bindings.rebound(vf)  # the flag is set on VFs without a driver only
            if releasing is not None:
                self._end(releasing, state)
            return done(todo)

    def _end(self, releasing: Claim, state: VfState) -> None:
        if state.in_use:
            raise HostError(
                f"VF {state.vf}, {claim_store.holder(releasing)}, is still in use by a process",
                "end the process that fuser -v /dev/vfio/* /dev/vfio/devices/* shows; the next reconcile does the rest",
            )
        self._store.drop(releasing)

    def _plan(
        self, state: VfState, claim: Optional[Claim], releasing: Optional[Claim]
    ) -> tuple[VfState, list[Step]]:
        """The steps for one VF, with as much of its state as they depend on."""
        pool = self._config.pool_of(state.pf)
        if pool is None:
            return state, []
        if claim is None and self._is_hosts_own(state, pool):
            return state, unplug_steps(state) if releasing is not None else []
        if claim is not None and claim.state == PLUGGED:  # else no port is wanted, and no MTU
            pool = self._with_mtu(pool, state.pf)
        state, want = self._target(state, claim, pool, releasing)
        if state.vfio and (releasing is not None or takes_driver(state, want)):
            # A driver cannot be taken from a QEMU: the kernel would wait until that ends.
            state = replace(state, in_use=self._host.sysfs.in_use(state.vf))
        if releasing is not None and state.in_use:
            return state, steps(state, Wanted(migratable=False))
        return state, steps(state, want)

    def _target(
        self,
        state: VfState,
        claim: Optional[Claim],
        pool: Pool,
        releasing: Optional[Claim] = None,
        *,
        overrides: Mapping[PciAddress, Optional[str]] = MappingProxyType({}),
    ) -> tuple[VfState, Wanted]:
        """The state that a VF should be in, and its present state with what matters for that.

        `overrides` has the driver_override of VFs for which that was read together.
        """
        want = self._wanted(claim, pool, state)
        if claim is not None:
            self._leftovers.forget(state.vf)
            if claim.state != RESERVED:
                return state, want
            # libvirt has not yet had the VF for this guest: what is on it was left by an earlier one
            mac = want.mac if want.mac is not None else self._host.vendor(state.pf).free_mac
            return self._with_override(state), replace(want, no_override=True, mac=mac)
        state = self._with_override(state, overrides)
        if releasing is not None:
            return state, taken_back(want, state, releasing)
        ready = self._host.sysfs.variant_driver(state.vf) if state.vfio else None
        free_mac = self._host.vendor(state.pf).free_mac
        left = leftovers(state, want, ready=ready, free_mac=free_mac) if not state.in_use else []
        if self._leftovers.are_old(state.vf, left):
            want = cleaned(want, state, ready=ready, free_mac=free_mac)
        return state, want

    def _with_mtu(self, pool: Pool, pf: PciAddress) -> Pool:
        """The pool with the MTU of its uplink, if it has none of its own.

        The index of the device is remembered, because a list of the card's ports is slow.
        """
        if pool.mtu is not None or pool.uplink == NONE:
            return pool
        try:
            if pf in self._uplink_indexes:
                return replace(pool, mtu=self._host.links.link(self._uplink_indexes[pf]).mtu)
        except HostError:  # made again, with another index
            self._uplink_indexes.pop(pf, None)
        try:
            link = uplinks.of_pf(self._host, pool, pf)
        except HostError:
            return pool  # a finding of the pool
        self._uplink_indexes[pf] = link.index
        return replace(pool, mtu=link.mtu)

    def _with_override(
        self, state: VfState, known: Mapping[PciAddress, Optional[str]] = MappingProxyType({})
    ) -> VfState:
        override = known[state.vf] if state.vf in known else self._host.sysfs.driver_override(state.vf)
        # most have none, and a copy for nothing takes a while for thousands of VFs
        return replace(state, override=override) if override is not None else state

    def _wanted(self, claim: Optional[Claim], pool: Pool, state: VfState) -> Wanted:
        in_pair = claim is not None and claim.traits.port_follows_driver
        driven = not in_pair or claim is None or self._host.sysfs.bus_master(claim.vf)
        return wanted(
            claim, pool, driven=driven, bind=self._bind(claim, state) if claim is not None else None
        )

    def _bind(self, claim: Claim, state: VfState) -> Optional[str]:
        if not claim.traits.state_travels:
            will_do = claim.managed or state.vfio
            return None if will_do else self._host.sysfs.variant_driver(claim.vf)
        driver = driver_binding.driver(
            self._libvirt_version(),
            managed=claim.managed,
            started=claim.state == PLUGGED,
            bound=state.driver,
        )
        return self._host.sysfs.variant_driver(claim.vf) if driver == driver_binding.VARIANT else driver

    def survey(self, pf: PciAddress, around: Optional[Surroundings] = None) -> list[PciAddress]:
        """The VFs of a PF that may differ from what the claims ask for; observes all of them at once.

        Those whose claims are releasing are not among them: they are converged in any case. `around` as for
        `Host.survey()`.
        """
        pool = self._config.pool_of(pf)
        if pool is None:
            return []
        pool = self._with_mtu(pool, pf)
        different = []
        # looked at before the host: of a guest that comes meanwhile it does not matter what is seen here
        claims = {claim.vf: claim for claim in self._store.all()}
        releasing = {claim.vf for claim in self._store.all_releasing()}
        states = self._host.survey(pf, around, of_guests=claims)
        overrides = self._host.sysfs.driver_overrides(
            [state.vf for state in states if state.vf not in claims]
        )
        for state in states:
            if state.vf in releasing:
                continue
            claim = claims.get(state.vf)
            self.bindings.note(state)
            try:
                if steps(*self._target(state, claim, pool, overrides=overrides)):
                    different.append(state.vf)
            except HostError:
                different.append(state.vf)  # converge() reports what is wrong
        return different

    def check_ready(self, vf: PciAddress) -> None:
        """Raises Refused when device state cannot be migrated from or to this VF."""
        pf = self._host.sysfs.physfn(vf)
        port = self._host.devlink.vf_port(pf, self._host.sysfs.vf_index(vf)) if pf is not None else None
        if pf is None or port is None:
            raise Refused(
                f"PF {pf} is not in switchdev mode, so VF {vf} cannot migrate with its device state",
                f"run: devlink dev eswitch set {quoted(f'pci/{pf}')} mode switchdev",
            )
        vendor = self._host.vendor(pf)
        if vendor.lacks_flag(port.migratable):
            found = vendor.cannot_migrate(str(pf))
            raise Refused(found.text, found.remedy)
        if self._host.sysfs.variant_driver(vf) == "vfio-pci":
            raise Refused(
                f"this kernel has no VFIO driver that can migrate VF {vf}",
                vendor.install_variant,
            )

    def _is_hosts_own(self, state: VfState, pool: Pool) -> bool:
        """Whether the host itself, or a container on it, may be using a VF of a pool."""
        if state.driver is None or state.vfio:
            return False
        return state.vf in vf_use.unclaimed_use(self._host, {state.vf: pool})
