# SPDX-License-Identifier: GPL-2.0-or-later
"""What must be true of either host, whoever comes or goes: software, daemon, hook, switch, cards. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vfmigrate.domain.migrating_guest import VFIO
from vfmigrate.model.host_facts import HostFacts
from vfmigrate.ovs.offload import UNIT
from vfmigrate.preflight.snapshot import DESTINATION, Line, Prospect, Side, error, settled, warning
from vfmigrate.rules.findings import Finding

LIBVIRT_MIN = 10_000_000
QEMU_MIN = 8_001_000
KERNEL_MIN = (6, 7)


def lines(prospect: Prospect, side: Side) -> Iterator[Line]:
    """All there is to say of one host."""
    vfio = any(vf.strategy == VFIO for vf in prospect.vfs)
    yield from settled(
        side.side,
        "libvirt",
        f"libvirt {number(side.libvirt.libvirt)}, QEMU {number(side.libvirt.qemu)}",
        _software(side, vfio),
    )
    if not prospect.vfs:
        return
    if side.facts is None:
        trouble = side.trouble
        found = [error(trouble.problem, trouble.remedy)] if trouble is not None else []
        yield from settled(side.side, "daemon", "", found)
        return
    yield Line(side.side, "daemon", "ok", f"vfmigrated {side.facts.vfmigrate} answers")
    pools = {vf.pool for vf in prospect.vfs if vf.pool is not None}
    if vfio:
        yield from settled(side.side, "kernel", f"kernel {side.facts.kernel}", _kernel(side, side.facts))
    yield from settled(side.side, "hook", "libvirt's hook is in place", _hook(side, side.facts))
    yield from settled(side.side, "openvswitch", "Open vSwitch runs", _switch(side, side.facts))
    yield from settled(side.side, "offload", "Open vSwitch offloads to the card", _offload(side, side.facts))
    yield from settled(
        side.side, "cards", "nothing stands against the cards", _cards(side, side.facts, pools)
    )


def number(version: int) -> str:
    """A version as libvirt counts, in words."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def _software(side: Side, vfio: bool) -> Iterator[Finding]:
    if side.libvirt.libvirt < LIBVIRT_MIN:
        yield error(
            f"{side.name} runs libvirt {number(side.libvirt.libvirt)}, and {number(LIBVIRT_MIN)} is needed",
            "update libvirt",
        )
    if vfio and side.libvirt.qemu < QEMU_MIN:
        yield error(
            f"{side.name} runs QEMU {number(side.libvirt.qemu)}, and the state of VFs needs {number(QEMU_MIN)}",
            "update QEMU",
        )


def _kernel(side: Side, facts: HostFacts) -> Iterator[Finding]:
    found = re.match(r"(\d+)\.(\d+)", facts.kernel)
    if found and (int(found.group(1)), int(found.group(2))) < KERNEL_MIN:
        yield error(
            f"{side.name} runs kernel {facts.kernel}, and the state of VFs needs 6.7",
            "update the kernel",
        )


def _hook(side: Side, facts: HostFacts) -> Iterator[Finding]:
    if facts.hook is False:
        yield error(
            f"libvirt on {side.name} has no hook of vfmigrate, so nothing is prepared for the guest",
            f"run on {side.name}: dnf reinstall libvirt-hook-vfmigrate",
        )


def _switch(side: Side, facts: HostFacts) -> Iterator[Finding]:
    switch = facts.switch
    if switch.problem is not None:
        yield error(f"Open vSwitch on {side.name}: {switch.problem}")
    elif not switch.running:
        # On the source the ports are there already, and what they do is the guest's present trouble.
        grade = error if side.side == DESTINATION else warning
        yield grade(
            f"ovs-vswitchd does not run on {side.name}, so no port can be plugged in",
            f"run on {side.name}: systemctl start {UNIT}",
        )


def _offload(side: Side, facts: HostFacts) -> Iterator[Finding]:
    if facts.switch.offload == "off":
        yield warning(
            f"hardware offload of Open vSwitch is off on {side.name}: the guest's traffic goes through the CPU",
            f"run on {side.name}: vfmigrate provision",
        )
    elif facts.switch.offload == "restart":
        yield warning(
            f"hardware offload of Open vSwitch is on but without effect on {side.name}",
            f"run on {side.name}: systemctl restart {UNIT}",
        )


def _cards(side: Side, facts: HostFacts, pools: set[str]) -> Iterator[Finding]:
    for pool in facts.pools:
        if pool.name not in pools:
            continue
        for finding in pool.findings:
            yield Finding(finding.severity, f"{side.name}: {finding.text}", finding.remedy)
        told = {finding.text for finding in pool.findings}
        for pf in pool.pfs:
            if pf.problem is not None and facts.switch.problem is None:
                if not any(pf.address in text for text in told):
                    yield error(f"PF {pf.address} on {side.name}: {pf.problem}")
            elif pf.mode is not None and pf.mode != "switchdev":
                yield error(
                    f"the eswitch of PF {pf.address} on {side.name} is in {pf.mode} mode, so its VFs cannot migrate",
                    f"run on {side.name}: vfmigrate provision",
                )
