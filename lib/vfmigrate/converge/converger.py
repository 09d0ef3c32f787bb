# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the host match the claims, one VF at a time.

`Converger` observes a VF, plans (`plan`) and applies the steps; the modules of `host` and `ovs` verify each change. It
is idempotent and keeps no record of what it did: whatever was interrupted is finished by converging again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Optional

from vfmigrate.claims.claim_store import PLUGGED, Claim, ClaimStore
from vfmigrate.config.configuration import Config
from vfmigrate.config.pool import Pool
from vfmigrate.converge.bindings import Bindings
from vfmigrate.converge.observe import Host, VfState
from vfmigrate.converge.plan import Wanted, steps, taken_back, wanted
from vfmigrate.errors import HostError, Refused
from vfmigrate.locks import Rank, RankedLock
from vfmigrate.model.pci import PciAddress
from vfmigrate.rules import driver_binding


class Converger:
    """Converges VFs against the claims; one at a time for each VF."""

    def __init__(
        self,
        host: Host,
        config: Config,
        store: ClaimStore,
        *,
        libvirt_version: Callable[[], int] = lambda: driver_binding.CHOOSES_VARIANT,
    ) -> None:
        """`libvirt_version` returns the version in libvirt's numbering, without a call of libvirt."""
        self._libvirt_version = libvirt_version
        self._host = host
        self._config = config
        self._store = store
        self._locks: dict[PciAddress, RankedLock] = {}
        #: which VFs were bound before they were migratable, as far as observed
        self.bindings = Bindings()

    def _lock(self, vf: PciAddress) -> RankedLock:
        # setdefault() is one step for all threads, which a defaultdict's __missing__ is not
        return self._locks.setdefault(vf, RankedLock(Rank.VF, f"VF {vf}"))

    def converge(self, vf: PciAddress, *, after: Optional[Claim] = None, gone: bool = False) -> list[str]:
        """Make the host match the claim on `vf`; returns the changes made, in words.

        `after` is the last claim on a VF that is free now: a MAC that the daemon set is reset. `gone`: the guest is
        gone and libvirt has finished with the VF, so what libvirt left there is removed as well. A libvirtd that is
        killed forgets a guest that it is just starting or stopping.
        Raises HostError or Unreachable with the first change that failed; the changes before it stay.
        """
        with self._lock(vf):
            claim = self._store.get(vf)
            state = self._host.observe(vf)
            pool = self._config.pool_of(state.pf)
            if pool is None:
                return []
            self.bindings.note(state)
            if claim is None and self._is_hosts_own(state):
                return []
            want = self._wanted(claim, pool)
            if claim is None and after is not None:
                want = taken_back(want, state, after, gone)
            if state.vfio and (want.unbind or want.bind not in (None, state.driver)):
                # A driver cannot be taken from a QEMU: the kernel would wait until that ends.
                state = replace(state, in_use=self._host.sysfs.in_use(vf))
            todo = steps(state, want)
            for step in todo:
                step.run(self._host)
            if todo and state.migratable is False and not state.in_use:
                self.bindings.rebound(vf)  # the flag is set on VFs without a driver only
            return [step.done for step in todo]

    def _wanted(self, claim: Optional[Claim], pool: Pool) -> Wanted:
        in_pair = claim is not None and claim.traits.port_follows_driver
        driven = not in_pair or claim is None or self._host.sysfs.bus_master(claim.vf)
        return wanted(claim, pool, driven=driven, bind=self._bind(claim) if claim is not None else None)

    def _bind(self, claim: Claim) -> Optional[str]:
        if not claim.traits.state_travels:
            will_do = claim.managed or self._host.sysfs.is_vfio(self._host.sysfs.driver(claim.vf))
            return None if will_do else self._host.sysfs.variant_driver(claim.vf)
        driver = driver_binding.driver(
            self._libvirt_version(), managed=claim.managed, started=claim.state == PLUGGED
        )
        return self._host.sysfs.variant_driver(claim.vf) if driver == driver_binding.VARIANT else driver

    def survey(self, pf: PciAddress) -> list[PciAddress]:
        """The VFs of a PF that may differ from what the claims ask for; observes all of them at once."""
        pool = self._config.pool_of(pf)
        if pool is None:
            return []
        different = []
        for state in self._host.survey(pf):
            claim = self._store.get(state.vf)
            self.bindings.note(state)
            try:
                if steps(state, self._wanted(claim, pool)):
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
                f"run: devlink dev eswitch set pci/{pf} mode switchdev",
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

    def _is_hosts_own(self, state: VfState) -> bool:
        """Whether the host itself uses a VF of a pool: bound to a network driver, with an interface that is up."""
        if state.driver is None or state.vfio:
            return False
        return self._host.netdev_up(state.vf) is not None
