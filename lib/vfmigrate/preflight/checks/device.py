# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of what migrates the device state of VFs: the kernel's driver, what a VF answers, QEMU. Pure.

No version of a kernel stands for what can be seen: distributions add drivers to old kernels. The variant driver is seen
in modules.alias, and what it can do is answered by a free VF (provision.device_query), which has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from vfmigrate.cards import registry
from vfmigrate.model.host_facts import HostFacts, PfFacts
from vfmigrate.model.migration_options import USUAL_DOWNTIME_MS
from vfmigrate.model.vfio import GENERIC_DRIVER, size_text
from vfmigrate.preflight.snapshot import (
    OK,
    PAIR,
    CheckResult,
    HostSnapshot,
    Snapshot,
    as_results,
    error,
    warning,
)
from vfmigrate.rules.findings import Finding
from vfmigrate.text import quoted

#: The first QEMU, as libvirt counts, in which migration of VFIO devices is no experiment. It is a version, because only
#: QEMU's monitor reports the feature, and libvirt marks a guest as tainted when somebody else uses its monitor.
#: Distributions have backports, so an older QEMU is no error: on the source it refuses before anything is copied.
QEMU_UPSTREAM = 8_001_000


def results(snapshot: Snapshot) -> Iterator[CheckResult]:
    """The results for both hosts, if a VF migrates with its state."""
    if not any(vf.strategy.state_travels for vf in snapshot.vfs):
        return
    for host in (snapshot.source, snapshot.destination):
        yield from _of_host(snapshot, host)
    yield from _downtime(snapshot)


def _of_host(snapshot: Snapshot, host: HostSnapshot) -> Iterator[CheckResult]:
    yield from as_results(host.side, "qemu", f"QEMU {number(host.libvirt.qemu)}", _qemu(host))
    if host.facts is None:
        return
    pfs = _pfs(host.facts, snapshot)
    drivers = sorted({pf.variant_driver for pf in pfs} - {None, GENERIC_DRIVER}, key=str)
    found = list(_drivers(host, host.facts, pfs))
    if found or drivers:
        fine = f"kernel {host.facts.kernel} has {', '.join(map(str, drivers))}"
        yield from as_results(host.side, "kernel", fine, found)
    for pf in pfs:
        if pf.support is not None:
            yield from as_results(
                host.side,
                "device",
                f"VFs of PF {pf.address} can migrate ({pf.support})",
                _device(snapshot, host, pf),
            )
        elif pf.support_unknown is not None and pf.problem is None:
            why = f"{pf.support_unknown}; judged by kernel and firmware"
            yield CheckResult(host.side, "device", OK, f"VFs of PF {pf.address} were not asked: {why}")


def number(version: int) -> str:
    """The text of a version number as libvirt counts."""
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"


def _pfs(facts: HostFacts, snapshot: Snapshot) -> list[PfFacts]:
    """The PFs whose VFs the guest has, or could get."""
    pools = {vf.pool for vf in snapshot.vfs if vf.strategy.state_travels}
    return [pf for pool in facts.pools if pool.name in pools for pf in pool.pfs]


def _qemu(host: HostSnapshot) -> Iterator[Finding]:
    if host.libvirt.qemu < QEMU_UPSTREAM:
        yield warning(
            f"{host.name}: QEMU {number(host.libvirt.qemu)} migrates the device state of VFs only if its vendor added "
            f"that; others do from {number(QEMU_UPSTREAM)} on",
            f"if it was not added, update QEMU on {host.name}",
        )


def _drivers(host: HostSnapshot, facts: HostFacts, pfs: list[PfFacts]) -> Iterator[Finding]:
    known = [finding.text for pool in facts.pools for finding in pool.findings]
    for pf in pfs:
        if pf.variant_driver == GENERIC_DRIVER and not any(pf.address in text for text in known):
            yield error(
                f"{host.name}: kernel {facts.kernel} has no VFIO driver that can migrate the VFs of PF {pf.address}",
                registry.known().named(pf.pci_id).install_variant,
            )


def _device(snapshot: Snapshot, host: HostSnapshot, pf: PfFacts) -> Iterator[Finding]:
    support = pf.support
    if support is None:
        return
    if not support.stop_copy:
        known = [finding.text for pool in host.facts.pools for finding in pool.findings] if host.facts else []
        if not any(pf.address in text for text in known):
            yield error(
                f"{host.name}: the VFs of PF {pf.address} cannot migrate: their driver {support.driver} offers no "
                "migration",
                registry.known().named(pf.pci_id).enable_migration(pf.address),
            )
        return
    # vfio_multiple_devices_migration_is_supported() in QEMU's hw/vfio/common.c
    if not support.p2p and sum(vf.strategy.state_travels for vf in snapshot.vfs) > 1:
        yield error(
            f"{host.name}: QEMU migrates a guest with several VFs only if their drivers support P2P, and "
            f"{support.driver} does not",
            "unplug all VFs but one, or give the others strategy failover or replug",
        )


def _downtime(snapshot: Snapshot) -> Iterator[CheckResult]:
    """How long it takes to transfer the state of the VFs, for which the guest is paused."""
    size = _state_size(snapshot)
    if size is None:
        return
    limit, most = snapshot.downtime_ms or USUAL_DOWNTIME_MS, snapshot.bandwidth_mibs
    text = f"about {size_text(size)} of device state are transferred while the guest is paused"
    if most is None:
        needed = size * 1000 / limit / (1 << 20)
        fine = f"{text}: {needed:.0f} MiB/s keep the downtime limit of {limit} ms"
        yield CheckResult(PAIR, "downtime", OK, fine)
        return
    ms = size * 1000 / (most << 20)
    found = []
    if ms > limit:
        found.append(
            warning(
                f"{text}, which takes {ms:.0f} ms at the bandwidth limit of {most} MiB/s, longer than the downtime "
                f"limit of {limit} ms",
                "run vfmigrate migrate, which raises the downtime limit, or: "
                f"virsh migrate-setmaxdowntime {quoted(snapshot.guest.domain.name)} MS",
            )
        )
    yield from as_results(PAIR, "downtime", f"{text}: {ms:.0f} ms at {most} MiB/s", found)


def _state_size(snapshot: Snapshot) -> Optional[int]:
    """The estimated bytes of state of all VFs of the guest that migrate with their state; None if one is unknown."""
    total = 0
    for vf in snapshot.vfs:
        if not vf.strategy.state_travels:
            continue
        known = snapshot.source.facts.vf(str(vf.interface.address)) if snapshot.source.facts else None
        support = known[1].support if known is not None else None
        if support is None or support.data_size is None:
            return None
        total += support.data_size
    return total
