# SPDX-License-Identifier: GPL-2.0-or-later
"""Which VFs have to be replugged because their device state cannot travel to this destination. Pure.

Cards, firmware and drivers of two hosts differ while a cluster is updated. A guest that can be without a VF for some
seconds then migrates all the same: its VF is unplugged before and replaced afterwards, and keeps its strategy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfmigrate.errors import Refused
from vfmigrate.model import strategy
from vfmigrate.preflight import report
from vfmigrate.preflight.snapshot import CheckResult, Snapshot
from vfmigrate.rules.findings import ERROR


@dataclass(frozen=True)
class Fallback:
    """VFs to replug, and the results of the checks with that."""

    macs: tuple[str, ...]
    #: why their state cannot travel
    reasons: tuple[str, ...]
    results: tuple[CheckResult, ...]


def plan(snapshot: Snapshot, *, allow_outage: bool) -> Fallback:
    """What to replug; nothing where all state can travel, or where that is not what is wrong.

    Raises Refused for a guest that would be without network meanwhile, unless that is allowed.
    """
    results = tuple(report.judge(snapshot))
    errors = [each for each in results if each.severity == ERROR]
    bound = [vf for vf in snapshot.vfs if vf.strategy.state_travels]
    macs = tuple(vf.interface.wanted_mac for vf in bound if vf.interface.wanted_mac is not None)
    if not errors or not bound or len(macs) != len(bound):
        return Fallback((), (), results)
    instead = tuple(replace(vf, strategy=strategy.REPLUGGED) if vf in bound else vf for vf in snapshot.vfs)
    # what is said of strategy replug is about virsh migrate, which this is not
    others = tuple(
        each
        for each in report.judge(replace(snapshot, vfs=instead))
        if each.check != "strategy" or each.severity == ERROR
    )
    texts = {each.text for each in others}
    reasons = tuple(each.text for each in errors if each.text not in texts)
    if not reasons:
        return Fallback((), (), results)
    if not snapshot.guest.other_interfaces and not allow_outage:
        raise Refused(
            f"guest '{snapshot.guest.domain.name}' has no interface besides its VFs, so it would be without network "
            "until it has a VF on the destination",
            "add a virtio interface and a bond in the guest (vfmigrate-guest), or allow it with --allow-outage",
        )
    return Fallback(macs, reasons, others)
