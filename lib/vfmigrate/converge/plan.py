# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps that make one VF what its claim asks for. Pure.

`wanted` turns a claim (or its absence) into the state that the VF should be in; `steps` compares that with the state
that was observed.

The order matters to the kernel: where it offers the `migratable` flag, a variant driver reads it when it binds, so it
is set while the VF is unbound (Documentation/networking/devlink/devlink-port.rst). Whether a VF needs the flag to
migrate is decided by the vendor of its card (`cards`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Callable, Optional

from vfmigrate.claims.claim_store import PLUGGED, Claim
from vfmigrate.config.pool import Pool
from vfmigrate.converge.observe import Host, VfState
from vfmigrate.errors import HostError
from vfmigrate.model.mac import NO_MAC, NO_MAC_INSTEAD
from vfmigrate.ovs.openvswitch import PortSettings
from vfmigrate.text import quoted


@dataclass(frozen=True)
class WantedPort:
    """A port of the representor in a bridge, with the ID of a claim."""

    bridge: str
    owner: str
    settings: PortSettings


@dataclass(frozen=True)
class Wanted:
    """The state a VF should be in."""

    #: the VF must be able to migrate with its device state
    migratable: bool
    #: the VFIO driver that the daemon binds, because libvirt does not
    bind: Optional[str] = None
    #: a guest is about to run with the VFIO driver that libvirt bound: if it must be unbound, it is bound again
    rebind: bool = False
    #: unbind the VFIO driver, which libvirt left on the VF
    unbind: bool = False
    #: any driver may be bound to the VF
    no_override: bool = False
    #: the VF stays with the host's own driver, and is bound to it where it has none
    host_driver: bool = False
    port: Optional[WantedPort] = None
    mac: Optional[str] = None
    mtu: Optional[int] = None


@lru_cache(maxsize=1 << 13)
def _iface_id(domain: str, mac: str, twin: int) -> str:
    """The same on every host, so that a controller sees one logical port move; for twins, each its own."""
    return str(uuid.uuid5(uuid.UUID(domain), f"{mac}/{twin}" if twin else mac))


def wanted(claim: Optional[Claim], pool: Pool, *, driven: bool = True, bind: Optional[str] = None) -> Wanted:
    """The state that a claim on a VF of this pool asks for; without a claim the VF is free.

    `driven`: the guest's driver uses the VF. While it does not, the guest is on the standby of its failover pair, and a
    port of the VF in the bridge would receive the standby's frames. `bind`: the VFIO driver that libvirt does not bind.
    """
    if claim is None:
        for_host = pool.free_vfs == "host"
        return Wanted(migratable=not for_host, host_driver=for_host)
    port = None
    if claim.state == PLUGGED and (driven or not claim.traits.port_follows_driver):
        ids = {"vm-id": claim.domain, "iface-status": "active"}
        if claim.mac is not None:
            ids["iface-id"] = _iface_id(claim.domain, claim.mac, claim.twin)
            ids["attached-mac"] = claim.mac
        settings = PortSettings(tag=claim.vlan, trunks=claim.trunks, external_ids=ids)
        port = WantedPort(pool.bridge, claim.id, settings)
    return Wanted(
        migratable=claim.traits.needs_migratable,
        bind=bind,
        rebind=claim.state == PLUGGED,
        port=port,
        mac=claim.mac if claim.set_mac else None,
        mtu=pool.mtu,
    )


class Verb(Enum):
    """What a step does, in the imperative and in the past tense."""

    BIND = ("bind", "bound")
    BRING = ("bring", "brought")
    CREATE = ("create", "created")
    DEFINE = ("define", "defined")
    GIVE = ("give", "gave")
    PLUG = ("plug", "plugged")
    PREPARE = ("prepare", "prepared")
    REMOVE = ("remove", "removed")
    RESET = ("reset", "reset")
    RESTART = ("restart", "restarted")
    SET = ("set", "set")
    START = ("start", "started")
    TAKE = ("take", "took")
    UNBIND = ("unbind", "unbound")
    UNPLUG = ("unplug", "unplugged")
    WAIT = ("wait", "waited")


@dataclass(frozen=True)
class Step:
    """One change to the host: what it is, in words, and how it is done."""

    verb: Verb
    #: what the verb is about: the rest of the sentence
    rest: str
    run: Callable[[Host], object]
    #: changes nothing and is not reported
    silent: bool = False
    #: a step that `run` takes as well, while it waits
    meanwhile: Optional[Step] = None

    @property
    def text(self) -> str:
        """The step as it is planned: `create bridge br-data`."""
        return f"{self.verb.value[0]} {self.rest}"

    @property
    def done(self) -> str:
        """The step after it was applied: `created bridge br-data`."""
        return f"{self.verb.value[1]} {self.rest}"


def done(applied: Iterable[Step]) -> list[str]:
    """The steps that were applied, in words."""
    each = (part for step in applied for part in (step.meanwhile, step))
    return [part.done for part in each if part is not None]


def unbound(state: VfState) -> VfState:
    """The VF as it will be after it was unbound from its driver."""
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
        index, mac = state.port_index, _mac_with_flag(state, want)
        steps.append(
            Step(
                Verb.SET,
                f"migratable of {state.vf}" + (f", and its hw_addr to {mac}" if mac is not None else ""),
                lambda host: host.devlink.set_port_function(state.pf, index, hw_addr=mac, migratable=True),
            )
        )
    driver = want.bind or (state.driver if want.rebind and state.vfio else None)
    if driver is not None and (unbind or state.driver != driver):
        steps.append(
            Step(Verb.BIND, f"{state.vf} to {driver}", lambda host: host.sysfs.bind(state.vf, driver))
        )
    return steps


def _host_driver_steps(state: VfState, want: Wanted) -> list[Step]:
    if state.driver is not None and not (state.vfio and want.unbind):
        return []  # a VF that is bound to VFIO was detached by somebody who is about to assign it
    return [
        Step(
            Verb.BIND,
            f"{state.vf} to the host's driver",
            lambda host: host.sysfs.bind(state.vf, host.sysfs.driver(state.pf) or ""),
        )
    ]


def _unbind_step(state: VfState) -> Step:
    return Step(Verb.UNBIND, f"{state.vf} from {state.driver}", lambda host: host.sysfs.unbind(state.vf))


def _override_steps(state: VfState, want: Wanted) -> list[Step]:
    if not want.no_override or state.override is None or state.in_use:
        return []
    return [
        Step(Verb.RESET, f"driver_override of {state.vf}", lambda host: host.sysfs.reset_override(state.vf)),
    ]


def _mac_with_flag(state: VfState, want: Wanted) -> Optional[str]:
    """The MAC that is set together with the `migratable` flag, in one request, where both are to be set.

    A reset of the MAC is not: some drivers refuse it.
    """
    sets_flag = want.migratable and state.migratable is False and not state.in_use and not want.host_driver
    return want.mac if sets_flag and want.mac not in (None, NO_MAC, state.hw_addr) else None


def _function_steps(state: VfState, want: Wanted) -> list[Step]:
    if want.mac is None or state.port_index is None or state.hw_addr == want.mac:
        return []
    if _mac_with_flag(state, want) is not None:
        return []
    if want.mac == NO_MAC:
        return _reset_mac_steps(state, state.port_index)
    index, mac = state.port_index, want.mac
    return [
        Step(
            Verb.SET,
            f"hw_addr of {state.vf} to {mac}",
            lambda host: host.devlink.set_port_function(state.pf, index, hw_addr=mac),
        )
    ]


def _reset_mac_steps(state: VfState, index: int) -> list[Step]:
    if state.hw_addr == NO_MAC_INSTEAD or state.in_use:
        return []

    def reset(host: Host) -> None:
        try:
            host.devlink.set_port_function(state.pf, index, hw_addr=NO_MAC)
        except HostError:
            # some drivers refuse it; libvirt does the same with them
            host.devlink.set_port_function(state.pf, index, hw_addr=NO_MAC_INSTEAD)

    return [Step(Verb.SET, f"hw_addr of {state.vf} to {NO_MAC}", reset)]


def unplug_steps(state: VfState) -> list[Step]:
    """Remove a port of this VF that vfmigrate plugged."""
    port = state.switch_port
    if port is None or port.owner is None:
        return []  # it belongs to an administrator or another controller
    name, owner = port.name, port.owner
    return [Step(Verb.UNPLUG, f"{name} from {port.bridge}", lambda host: host.ovs.unplug(name, owner))]


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
        steps = unplug_steps(state)
        if state.link_up and (state.switch_port is None or steps):
            steps.append(Step(Verb.TAKE, f"{name} down", lambda host: host.links.set_up(ifindex, False)))
        return steps
    steps = []
    if mtu is not None and state.mtu != mtu:
        steps.append(Step(Verb.SET, f"MTU of {name} to {mtu}", lambda host: host.links.set_mtu(ifindex, mtu)))
    up = None
    if not state.link_up:
        up = Step(Verb.BRING, f"{name} up", lambda host: host.links.set_up(ifindex))
    if _is_plugged(state, port):
        return steps if up is None else [*steps, up]
    if state.switch_port is not None and state.switch_port.owner != port.owner:
        steps += unplug_steps(state)  # of an earlier claim, which left it
    tag = f" with tag {port.settings.tag}" if port.settings.tag is not None else ""

    def plug(host: Host) -> None:
        # ovs-vswitchd takes a while to use a port, whose link can come up at the same time
        meanwhile = (lambda: up.run(host)) if up is not None else None
        host.ovs.plug(port.bridge, name, port.owner, port.settings, meanwhile=meanwhile)

    return [*steps, Step(Verb.PLUG, f"{name} into {port.bridge}{tag}", plug, meanwhile=up)]


def steps(state: VfState, want: Wanted) -> list[Step]:
    """The changes that lead from `state` to `want`, in the order in which they must happen.

    Raises HostError when no change leads there.
    """
    if want.port is not None and state.representor is None:
        raise HostError(
            f"VF {state.vf} has no representor: PF {state.pf} is not in switchdev mode",
            f"run: devlink dev eswitch set {quoted(f'pci/{state.pf}')} mode switchdev",
        )
    of_vf = _override_steps(state, want) + _driver_steps(state, want) + _function_steps(state, want)
    of_port = _port_steps(state, want)
    # The port goes first and comes last: what fails on the VF must not keep a guest's port in the bridge.
    return of_port + of_vf if want.port is None else of_vf + of_port


def takes_driver(state: VfState, want: Wanted) -> bool:
    """Whether a VF must not be in use for what is wanted of it."""
    resets = want.mac == NO_MAC != state.hw_addr or (want.no_override and state.override is not None)
    return resets or want.unbind or want.bind not in (None, state.driver)


def taken_back(want: Wanted, state: VfState, claim: Claim) -> Wanted:
    """The state wanted of a free VF whose claim is releasing: with what its guest left on it removed."""
    reset_mac = claim.set_mac or (claim.left and state.hw_addr == claim.mac)
    return replace(
        want,
        # libvirt leaves a VF bound that it does not manage
        unbind=claim.left and claim.managed and state.vfio,
        no_override=claim.left,
        mac=NO_MAC if reset_mac else want.mac,
    )


def leftovers(state: VfState, want: Wanted, *, ready: Optional[str], free_mac: Optional[str]) -> list[str]:
    """What no claim explains on a free VF, in words.

    `ready` is the VFIO driver of a VF that a guest can get; such a VF may have been bound on purpose. `free_mac` is the
    MAC of a VF to which nobody gave one; None: it is not known.
    """
    found = []
    if free_mac is not None and state.hw_addr not in (None, free_mac, NO_MAC_INSTEAD):
        found.append(f"MAC {state.hw_addr}")
    if state.override is not None:
        found.append(f"driver_override {state.override}")
    if _is_foreign(state, want, ready):
        found.append(f"driver {state.driver}")
    return found


def _is_foreign(state: VfState, want: Wanted, ready: Optional[str]) -> bool:
    return state.vfio and (want.host_driver or state.driver != ready)


def cleaned(want: Wanted, state: VfState, *, ready: Optional[str], free_mac: Optional[str]) -> Wanted:
    """The state wanted of a VF with its `leftovers` removed."""
    return replace(want, unbind=_is_foreign(state, want, ready), no_override=True, mac=free_mac)
