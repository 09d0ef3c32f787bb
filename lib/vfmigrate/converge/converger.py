# SPDX-License-Identifier: GPL-2.0-or-later
"""Make the host match the claims, one VF at a time.

`wanted` turns a claim (or its absence) into the state a VF should be in, `steps` compares that with what is there,
and `Converger` takes the steps; each door verifies its own change. It is idempotent and keeps no record of what it
did: whatever was interrupted, at whichever point, is finished by converging once more.

The order matters to the kernel: where it offers the `migratable` flag, a variant driver reads it when it binds, so it
is set while the VF is unbound (Documentation/networking/devlink/devlink-port.rst). Whether a VF needs the flag to
migrate is for the vendor of its card to say (`cards`).
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import Callable, Optional

from vfmigrate.claims.claim_store import PLUGGED, RESERVED, Claim, ClaimStore
from vfmigrate.config.configuration import Config, Pool
from vfmigrate.converge.bindings import Bindings
from vfmigrate.converge.observe import Host, VfState
from vfmigrate.errors import HostError, Refused
from vfmigrate.locks import Rank, RankedLock
from vfmigrate.model.pci import PciAddress
from vfmigrate.ovs.openvswitch import PortSettings
from vfmigrate.rules import driver_binding

NO_MAC = "00:00:00:00:00:00"


@dataclass(frozen=True)
class WantedPort:
    """A port of the representor in a bridge, in the name of a claim."""

    bridge: str
    owner: str
    settings: PortSettings


@dataclass(frozen=True)
class Wanted:
    """The state a VF should be in."""

    #: the VF must be able to take its state along
    migratable: bool
    #: the VFIO driver that we bind, as libvirt will not
    bind: Optional[str] = None
    #: no VFIO driver is wanted: libvirt left it on a VF that it had bound
    unbind: bool = False
    #: the host's own driver is welcome, and bound where there is none
    host_driver: bool = False
    port: Optional[WantedPort] = None
    mac: Optional[str] = None
    mtu: Optional[int] = None


def wanted(claim: Optional[Claim], pool: Pool, *, driven: bool = True, bind: Optional[str] = None) -> Wanted:
    """What the claim on a VF of this pool (None: the VF is free) asks of the host.

    `driven`: the guest's driver has the VF. While it has not, the standby of a failover pair carries the guest, and a
    port of the VF's would draw its frames away. `bind`: the VFIO driver that is not libvirt's to bind.
    """
    if claim is None:
        for_host = pool.free_vfs == "host"
        return Wanted(migratable=not for_host, host_driver=for_host)
    port = None
    if claim.state == PLUGGED and (driven or not claim.traits.port_follows_driver):
        ids = {"vm-id": claim.domain, "iface-status": "active"}
        if claim.mac is not None:
            # the same on every host, so that a controller sees one logical port move
            ids["iface-id"] = str(uuid.uuid5(uuid.UUID(claim.domain), claim.mac))
            ids["attached-mac"] = claim.mac
        settings = PortSettings(tag=claim.vlan, trunks=claim.trunks, external_ids=ids)
        port = WantedPort(pool.bridge, claim.id, settings)
    return Wanted(
        migratable=claim.traits.needs_migratable,
        bind=bind,
        port=port,
        mac=claim.mac if claim.set_mac else None,
        mtu=pool.mtu,
    )


@dataclass(frozen=True)
class Step:
    """One change to the host: what it is, in words, and how it is done."""

    text: str
    run: Callable[[Host], object]
    #: changes nothing: not worth telling
    silent: bool = False


def unbound(state: VfState) -> VfState:
    """The VF as it will be once its driver has let go of it."""
    return replace(state, driver=None, vfio=False)


def _driver_steps(state: VfState, want: Wanted) -> list[Step]:
    set_flag = want.migratable and state.migratable is False
    if state.in_use:
        if set_flag:
            raise HostError(
                f"{state.vf} is not migratable and a guest is using it",
                "shut the guest down and start it again",
            )
        return []
    if want.host_driver:
        return _host_driver_steps(state, want)
    unbind = state.driver is not None and (set_flag or want.unbind or not state.vfio)
    steps = [_unbind_step(state)] if unbind else []
    if set_flag and state.port_index is not None:
        index = state.port_index
        steps.append(
            Step(
                f"set migratable of {state.vf}",
                lambda host: host.devlink.set_port_function(state.pf, index, migratable=True),
            )
        )
    driver = want.bind
    if driver is not None and (unbind or state.driver != driver):
        steps.append(Step(f"bind {state.vf} to {driver}", lambda host: host.sysfs.bind(state.vf, driver)))
    return steps


def _host_driver_steps(state: VfState, want: Wanted) -> list[Step]:
    if state.driver is not None and not (state.vfio and want.unbind):
        return []  # one that is bound to VFIO was detached by somebody, who is about to give it away
    return [
        Step(
            f"bind {state.vf} to the host's driver",
            lambda host: host.sysfs.bind(state.vf, host.sysfs.driver(state.pf) or ""),
        )
    ]


def _unbind_step(state: VfState) -> Step:
    return Step(f"unbind {state.vf} from {state.driver}", lambda host: host.sysfs.unbind(state.vf))


def _function_steps(state: VfState, want: Wanted) -> list[Step]:
    if want.mac is None or state.port_index is None or state.hw_addr == want.mac:
        return []
    index, mac = state.port_index, want.mac
    return [
        Step(
            f"set hw_addr of {state.vf} to {mac}",
            lambda host: host.devlink.set_port_function(state.pf, index, hw_addr=mac),
        )
    ]


def _unplug_steps(state: VfState) -> list[Step]:
    port = state.switch_port
    if port is None or port.owner is None:
        return []  # not ours: an administrator's or another controller's
    name, owner = port.name, port.owner
    return [Step(f"unplug {name} from {port.bridge}", lambda host: host.ovs.unplug(name, owner))]


def _is_plugged(state: VfState, want: WantedPort) -> bool:
    port = state.switch_port
    return (
        port is not None
        and port.error is None
        and (port.bridge, port.owner) == (want.bridge, want.owner)
        and (port.tag, port.trunks) == (want.settings.tag, want.settings.trunks)
        and all(port.external_ids.get(key) == value for key, value in want.settings.external_ids.items())
    )


def _port_steps(state: VfState, want: Wanted) -> list[Step]:
    if state.representor is None or state.ifindex is None:
        return []
    name, ifindex, port, mtu = state.representor, state.ifindex, want.port, want.mtu
    if port is None:
        steps = _unplug_steps(state)
        if state.link_up and (state.switch_port is None or steps):
            steps.append(Step(f"take {name} down", lambda host: host.links.set_up(ifindex, False)))
        return steps
    steps = []
    if mtu is not None and state.mtu != mtu:
        steps.append(Step(f"set MTU of {name} to {mtu}", lambda host: host.links.set_mtu(ifindex, mtu)))
    if not state.link_up:
        steps.append(Step(f"bring {name} up", lambda host: host.links.set_up(ifindex)))
    if not _is_plugged(state, port):
        tag = f" with tag {port.settings.tag}" if port.settings.tag is not None else ""
        steps.append(
            Step(
                f"plug {name} into {port.bridge}{tag}",
                lambda host: host.ovs.plug(port.bridge, name, port.owner, port.settings),
            )
        )
    return steps


def steps(state: VfState, want: Wanted) -> list[Step]:
    """The changes that lead from `state` to `want`, in the order in which they must happen.

    Raises HostError when no change leads there.
    """
    if want.port is not None and state.representor is None:
        raise HostError(
            f"VF {state.vf} has no representor: PF {state.pf} is not in switchdev mode",
            f"run: devlink dev eswitch set pci/{state.pf} mode switchdev",
        )
    return _driver_steps(state, want) + _function_steps(state, want) + _port_steps(state, want)


def _taken_back(want: Wanted, state: VfState, claim: Claim, gone: bool) -> Wanted:
    """What a free VF should be, also as for what is left on it of its last claim."""
    left = gone and claim.managed and claim.state != RESERVED and state.vfio
    reset_mac = claim.set_mac or (left and state.hw_addr == claim.mac)
    return replace(want, unbind=left, mac=NO_MAC if reset_mac else want.mac)


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
        """`libvirt_version` tells the version, as libvirt counts, without asking libvirt."""
        self._libvirt_version = libvirt_version
        self._host = host
        self._config = config
        self._store = store
        self._locks: dict[PciAddress, RankedLock] = {}
        #: what is seen by the way of VFs that were bound too early
        self.bindings = Bindings()

    def _lock(self, vf: PciAddress) -> RankedLock:
        # setdefault() is one step for all threads, which a defaultdict's __missing__ is not
        return self._locks.setdefault(vf, RankedLock(Rank.VF, f"VF {vf}"))

    def converge(self, vf: PciAddress, *, after: Optional[Claim] = None, gone: bool = False) -> list[str]:
        """Make the host match the claim on `vf`; returns the changes made, in words.

        `after` is the claim on a VF that is free now: a MAC that we gave it is taken back. `gone`: its guest is gone
        and libvirt is through with the VF, so what libvirt left there is taken back as well. A libvirtd that is killed
        forgets a guest that it is just starting or stopping.
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
                want = _taken_back(want, state, after, gone)
            if state.vfio and (want.unbind or want.bind not in (None, state.driver)):
                # A driver cannot be taken from a QEMU: the kernel would wait until that ends.
                state = replace(state, in_use=self._host.sysfs.in_use(vf))
            todo = steps(state, want)
            for step in todo:
                step.run(self._host)
            if todo and state.migratable is False and not state.in_use:
                self.bindings.rebound(vf)  # the flag is set on VFs without a driver only
            return [step.text for step in todo]

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
        """The VFs of a PF that may differ from what the claims ask for, found in one look at all of them."""
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
                different.append(state.vf)  # converging tells what is wrong
        return different

    def check_ready(self, vf: PciAddress) -> None:
        """Raises Refused when state could not be carried from or to this VF."""
        pf = self._host.sysfs.physfn(vf)
        port = self._host.devlink.vf_port(pf, self._host.sysfs.vf_index(vf)) if pf is not None else None
        if pf is None or port is None:
            raise Refused(
                f"PF {pf} is not in switchdev mode, so VF {vf} cannot take a guest's state",
                f"run: devlink dev eswitch set pci/{pf} mode switchdev",
            )
        vendor = self._host.vendor(pf)
        if vendor.lacks_flag(port.migratable):
            found = vendor.cannot_migrate(str(pf))
            raise Refused(found.text, found.remedy)
        if self._host.sysfs.variant_driver(vf) == "vfio-pci":
            raise Refused(
                f"this kernel has no VFIO driver for VF {vf} that can migrate",
                vendor.install_variant,
            )

    def _is_hosts_own(self, state: VfState) -> bool:
        """Whether the host itself uses a VF of a pool: bound to a network driver, with an interface that is up."""
        if state.driver is None or state.vfio:
            return False
        netdevs = (self._host.links.find(name) for name in self._host.sysfs.netdevs(state.vf))
        return any(netdev is not None and netdev.up for netdev in netdevs)
