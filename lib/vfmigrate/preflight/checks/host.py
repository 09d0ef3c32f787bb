# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of each host, whichever guest migrates: software, daemon, hook, Open vSwitch, cards. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vfmigrate.model.host_facts import HostFacts
from vfmigrate.ovs.offload import UNIT
from vfmigrate.preflight.checks.device import number
from vfmigrate.preflight.snapshot import (
    DESTINATION,
    CheckResult,
    HostSnapshot,
    Snapshot,
    as_results,
    error,
    warning,
)
from vfmigrate.rules.findings import Finding

#: the release of libvirt, without its last number, that crashes when an interface of a hostdev network is attached
_CRASHES_AT_ATTACH = 12_001


def results(snapshot: Snapshot, host: HostSnapshot) -> Iterator[CheckResult]:
    """The results for one host."""
    yield from as_results(
        host.side, "libvirt", f"libvirt {number(host.libvirt.libvirt)}", _libvirt(snapshot, host)
    )
    if not snapshot.vfs:
        return
    if host.facts is None:
        trouble = host.trouble
        found = [error(trouble.problem, trouble.remedy)] if trouble is not None else []
        yield from as_results(host.side, "daemon", "", found)
        return
    troubles = (
        Finding(each.severity, f"{host.name}: {each.text}", each.remedy) for each in host.facts.problems
    )
    yield from as_results(host.side, "daemon", f"vfmigrated {host.facts.vfmigrate} answers", troubles)
    pools = {vf.pool for vf in snapshot.vfs if vf.pool is not None}
    yield from as_results(host.side, "hook", "libvirt's hook is in place", _hook(host, host.facts))
    yield from as_results(host.side, "openvswitch", "Open vSwitch runs", _switch(host, host.facts))
    yield from as_results(
        host.side, "offload", "Open vSwitch offloads to the card", _offload(host, host.facts)
    )
    yield from as_results(host.side, "cards", "the cards are ready", _cards(host, host.facts, pools))


def _libvirt(snapshot: Snapshot, host: HostSnapshot) -> Iterator[Finding]:
    """There is no minimum: libvirt reports what it refuses, and vfmigrate binds the driver that an older one does not.

    A fault is known by the version only.
    """
    if snapshot.vfs and host.libvirt.libvirt // 1000 == _CRASHES_AT_ATTACH:
        yield warning(
            f"{host.name}: libvirt {number(host.libvirt.libvirt)} crashes when an interface of a hostdev network is "
            "attached",
            f"update libvirt on {host.name}: 12.2 corrects it",
        )


def _hook(host: HostSnapshot, facts: HostFacts) -> Iterator[Finding]:
    if facts.hook is False:
        yield error(
            f"{host.name}: libvirt does not find vfmigrate's hook, so no VF is prepared for the guest",
            f"run on {host.name}: dnf reinstall libvirt-hook-vfmigrate",
        )


def _switch(host: HostSnapshot, facts: HostFacts) -> Iterator[Finding]:
    switch = facts.switch
    if switch.problem is not None:
        yield error(f"{host.name}: Open vSwitch: {switch.problem}")
    elif switch.unknown is not None:
        yield warning(f"{host.name}: Open vSwitch: {switch.unknown}")
    elif not switch.running:
        # On the source the ports exist already, so the guest can leave.
        grade = error if host.side == DESTINATION else warning
        yield grade(
            f"{host.name}: ovs-vswitchd is not running, so no port can be plugged",
            f"run on {host.name}: systemctl start {UNIT}",
        )


def _offload(host: HostSnapshot, facts: HostFacts) -> Iterator[Finding]:
    if facts.switch.offload == "off":
        yield warning(
            f"{host.name}: hardware offload of Open vSwitch is off; traffic of the guest is switched by the CPU",
            f"run on {host.name}: vfmigrate provision",
        )
    elif facts.switch.offload == "restart":
        yield warning(
            f"{host.name}: hardware offload of Open vSwitch is configured but not in effect",
            f"run on {host.name}: systemctl restart {UNIT}",
        )


def _cards(host: HostSnapshot, facts: HostFacts, pools: set[str]) -> Iterator[Finding]:
    for pool in facts.pools:
        if pool.name not in pools:
            continue
        for finding in pool.findings:
            yield Finding(finding.severity, f"{host.name}: {finding.text}", finding.remedy)
        known = {finding.text for finding in pool.findings}
        for pf in pool.pfs:
            if pf.problem is not None and facts.switch.problem is None:
                if not any(pf.address in text for text in known):
                    yield error(f"{host.name}: PF {pf.address}: {pf.problem}")
            elif pf.mode is not None and pf.mode != "switchdev":
                yield error(
                    f"{host.name}: the eswitch of PF {pf.address} is in {pf.mode} mode, so its VFs cannot migrate",
                    f"run on {host.name}: vfmigrate provision",
                )
