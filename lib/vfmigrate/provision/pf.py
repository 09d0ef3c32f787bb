# SPDX-License-Identifier: GPL-2.0-or-later
"""A physical function: its state, the state that its pool asks for, and the steps between.

`steps` is pure; it plans on the observed state, and for VFs that do not exist yet on what they will be. The order is
the kernel's: VFs are not probed (autoprobe off before they are made), the eswitch is in switchdev before there are VFs
(a mode change that is refused is then refused before anything was made, and each VF comes with its representor), MSI-X
counts and `migratable` are set while a VF has no driver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from vfmigrate.cards.vendor import Vendor
from vfmigrate.claims.claim_store import ClaimStore
from vfmigrate.config.pool import Pool
from vfmigrate.converge import plan, vf_use
from vfmigrate.converge.observe import Host, Surroundings, VfState
from vfmigrate.converge.plan import Step, Verb
from vfmigrate.converge.vf_use import VfUse
from vfmigrate.errors import HostError, Refused
from vfmigrate.host.udev import Udev
from vfmigrate.model.pci import PciAddress, PciId
from vfmigrate.polling import until

SWITCHDEV = "switchdev"
_SETTLE_SECONDS = 60.0
#: seconds between two looks at a card that is still coming up
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class PfState:
    """One PF as it is now."""

    pf: PciAddress
    pci_id: PciId
    #: of its card
    vendor: Vendor
    numvfs: int
    autoprobe: bool
    mode: str
    vfs: tuple[VfState, ...]
    #: MSI-X vectors of each VF; None where the VF has no such capability
    msix: Mapping[PciAddress, Optional[int]]
    #: who has a VF; a VF that is not here is free
    uses: Mapping[PciAddress, VfUse]


def observe(
    host: Host, store: ClaimStore, pool: Pool, pf: PciAddress, around: Optional[Surroundings] = None
) -> PfState:
    """Look at a PF of a pool and all its VFs; `around` as for `Host.survey()`. Raises HostError or Unreachable."""
    pci_id = host.sysfs.pci_id(pf)
    if pci_id is None:
        raise HostError(f"there is no PCI device {pf}", "see lspci -D")
    vfs = tuple(host.survey(pf, around))
    return PfState(
        pf=pf,
        pci_id=pci_id,
        vendor=host.vendors.of(pci_id),
        numvfs=host.sysfs.numvfs(pf),
        autoprobe=host.sysfs.autoprobe(pf),
        mode=host.devlink.eswitch_mode(pf),
        vfs=vfs,
        msix=host.sysfs.msix_counts(state.vf for state in vfs),
        uses=_uses(host, store, pool, vfs),
    )


def _uses(host: Host, store: ClaimStore, pool: Pool, vfs: Sequence[VfState]) -> dict[PciAddress, VfUse]:
    claims = {state.vf: store.blocking(state.vf) for state in vfs}
    of_guests = {vf: vf_use.of_claim(claim) for vf, claim in claims.items() if claim is not None}
    others = [state for state in vfs if state.vf not in of_guests]
    # no process has one of them: the survey has just walked through all processes
    held: Optional[Mapping[PciAddress, int]] = None if any(state.in_use for state in others) else {}
    return {**of_guests, **vf_use.unclaimed_use(host, {state.vf: pool for state in others}, held)}


def lacks_flag(state: PfState) -> bool:
    """Whether the eswitch shows ports of VFs, and one lacks the `migratable` flag that these VFs need."""
    return state.mode == SWITCHDEV and any(
        vf.port_index is not None and state.vendor.lacks_flag(vf.migratable) for vf in state.vfs
    )


def wanted_count(pool: Pool, state: PfState) -> int:
    """How many VFs the PF should have."""
    return pool.vfs if pool.vfs is not None else state.numvfs


def is_disruptive(pool: Pool, state: PfState) -> bool:
    """Whether the way to the wanted state takes VFs away that are there, or cuts them off."""
    return bool(state.numvfs) and (state.numvfs != wanted_count(pool, state) or state.mode != SWITCHDEV)


def steps(pool: Pool, state: PfState, udev: Udev) -> list[Step]:
    """The changes that lead a PF to what its pool wants, in the order in which they must happen.

    Raises Refused when a VF that would be taken away has a user, and names the user.
    """
    pf, count = state.pf, wanted_count(pool, state)
    if is_disruptive(pool, state):
        _refuse_if_used(pool, state, count)
    todo: list[Step] = []
    if state.autoprobe:
        todo.append(
            Step(
                Verb.SET,
                f"sriov_drivers_autoprobe of PF {pf} to 0",
                lambda host: host.sysfs.set_autoprobe(pf, False),
            )
        )
    made = 0 if state.numvfs == count else count
    if made and state.numvfs:
        todo.append(
            Step(Verb.REMOVE, f"the {state.numvfs} VFs of PF {pf}", lambda host: host.sysfs.set_numvfs(pf, 0))
        )
    if state.mode != SWITCHDEV:
        todo += _unbind_steps(state) if not made else []
        todo.append(
            Step(
                Verb.SET,
                f"the eswitch of PF {pf} to switchdev (its link goes down meanwhile)",
                lambda host: host.devlink.set_eswitch_mode(pf, SWITCHDEV),
            )
        )
    if made:
        todo.append(Step(Verb.CREATE, f"{made} VFs on PF {pf}", lambda host: host.sysfs.set_numvfs(pf, made)))
    if made or (state.numvfs and state.mode != SWITCHDEV):
        return todo + _new_vf_steps(pool, state, count, udev)
    for vf in state.vfs:
        todo += _vf_steps(pool, state, vf)
    return todo


def pending(pool: Pool, state: PfState) -> list[str]:
    """What cannot be made right while VFs are in use, in words."""
    if pool.msix is None:
        return []
    return [
        f"VF {vf} keeps its {state.msix[vf]} MSI-X vectors (configured: {pool.msix}) while it is {use.text}"
        for vf, use in sorted(state.uses.items())
        if state.msix[vf] != pool.msix
    ]


def _refuse_if_used(pool: Pool, state: PfState, count: int) -> None:
    if not state.uses:
        return
    change = (
        f"change sriov_numvfs of PF {state.pf} from {state.numvfs} to {count}"
        if count != state.numvfs
        else f"change the eswitch of PF {state.pf} from {state.mode} to switchdev"
    )
    users = ", ".join(f"VF {vf} is {use.text}" for vf, use in sorted(state.uses.items()))
    raise Refused(
        f"pool '{pool.name}' needs to {change}, which removes all VFs of the PF: {users}",
        "migrate these guests to another host, then run vfmigrate provision again",
    )


def _unbind_steps(state: PfState) -> list[Step]:
    """The host's drivers must release the VFs before the eswitch changes under them."""
    return [_unbind(vf) for vf in state.vfs if vf.driver is not None]


def _unbind(state: VfState) -> Step:
    return Step(Verb.UNBIND, f"{state.vf} from {state.driver}", lambda host: host.sysfs.unbind(state.vf))


def _new_vf_steps(pool: Pool, state: PfState, count: int, udev: Udev) -> list[Step]:
    pf = state.pf
    todo = [
        Step(
            Verb.WAIT,
            f"for the {count} representors of PF {pf}",
            lambda host: await_representors(host, udev, pf, count),
            silent=True,
        )
    ]
    if pool.msix is not None:
        msix = pool.msix
        todo.append(
            Step(
                Verb.GIVE,
                f"the {count} VFs of PF {pf} {msix} MSI-X vectors each",
                lambda host: _set_msix_of_all(host, pf, msix),
            )
        )
    # Whether there is a flag to set cannot be seen before there are VFs.
    verb, rest = Verb.PREPARE, f"the {count} VFs of PF {pf}"
    if pool.free_vfs == "host":
        verb, rest = Verb.BIND, f"{rest} to the host's driver"
    elif state.vendor.needs_flag:
        verb, rest = Verb.SET, f"migratable of {rest}"
    todo.append(Step(verb, rest, lambda host: _ready_all(host, pf, pool)))
    return todo


def _set_msix_of_all(host: Host, pf: PciAddress, msix: int) -> None:
    for vf in host.sysfs.vfs(pf):
        host.sysfs.set_msix_count(vf, msix)


def _ready_all(host: Host, pf: PciAddress, pool: Pool) -> None:
    for state in host.survey(pf):
        for step in plan.steps(state, plan.wanted(None, pool)):
            step.run(host)


def _vf_steps(pool: Pool, pf: PfState, state: VfState) -> list[Step]:
    """What a VF needs that is there already; one that has a user is its claim's business."""
    if state.vf in pf.uses:
        return []
    todo = []
    if pool.msix is not None and pf.msix[state.vf] != pool.msix:
        msix = pool.msix
        if state.driver is not None:
            todo.append(_unbind(state))
            state = plan.unbound(state)
        todo.append(
            Step(
                Verb.GIVE,
                f"{state.vf} {msix} MSI-X vectors",
                lambda host: host.sysfs.set_msix_count(state.vf, msix),
            )
        )
    return todo + plan.steps(state, plan.wanted(None, pool))


def await_representors(host: Host, udev: Udev, pf: PciAddress, count: int) -> None:
    """Wait until every VF of a PF has its representor, named for good.

    Kernel and udev make and name them after the VFs; many take a while. Raises HostError after a minute.
    """

    def complete() -> bool:
        ports = host.devlink.vf_ports(pf).values()
        named = [port for port in ports if port.ifindex is not None and udev.settled(port.ifindex)]
        return len(named) >= count

    if not until(complete, _SETTLE_SECONDS, POLL_SECONDS):
        ports = host.devlink.vf_ports(pf).values()
        there = sum(port.ifindex is not None for port in ports)
        raise HostError(
            f"PF {pf} has {there} representors for its {count} VFs after {_SETTLE_SECONDS:g} s", "see dmesg"
        )
