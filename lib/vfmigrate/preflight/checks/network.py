# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the path between the two hosts: clocks, names, ports, and bandwidth against the dirty rate. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from vfmigrate.model.libvirt_facts import UNLIMITED_MIBS
from vfmigrate.preflight.snapshot import (
    OK,
    PAIR,
    AddressFacts,
    CheckResult,
    Snapshot,
    as_results,
    error,
    warning,
)
from vfmigrate.rules.findings import Finding
from vfmigrate.text import quoted

#: seconds by which the clocks may differ; larger steps disturb guests that read the host's clock, and certificates
CLOCK_TOLERANCE = 2.0

REACHABLE = "reachable"
FILTERED = "filtered"


def results(snapshot: Snapshot) -> Iterator[CheckResult]:
    """The results for the path."""
    if snapshot.clock_ahead is not None:
        yield from as_results(PAIR, "clock", "the clocks are synchronised", _clock(snapshot))
    if snapshot.address is not None:
        address = snapshot.address
        fine = f"{snapshot.source.name} resolves {address.host}"
        yield from as_results(PAIR, "address", fine, _address(snapshot, address))
        if address.outcome is not None:
            fine = f"{address.host} accepts migrations (port {address.port})"
            yield from as_results(PAIR, "ports", fine, _ports(snapshot, address))
    if any(vf.strategy.state_travels for vf in snapshot.vfs):
        yield CheckResult(
            PAIR, "post-copy", OK, "migrates by pre-copy: post-copy is not possible with a VF's device state"
        )
    if snapshot.dirty_mibs is not None:
        yield from as_results(PAIR, "dirty-rate", _rates(snapshot), _dirty(snapshot))


def _clock(snapshot: Snapshot) -> Iterator[Finding]:
    ahead = snapshot.clock_ahead or 0.0
    if abs(ahead) > CLOCK_TOLERANCE + snapshot.clock_error:
        than = "ahead of" if ahead > 0 else "behind"
        yield warning(
            f"{snapshot.destination.name}: the clock is {abs(ahead):.0f} s {than} that of {snapshot.source.name}",
            "run on both hosts: systemctl enable --now chronyd",
        )


def _address(snapshot: Snapshot, address: AddressFacts) -> Iterator[Finding]:
    here, there = snapshot.source.name, snapshot.destination.name
    remedy = (
        f"add the name to DNS or to /etc/hosts on {here}, "
        f"or set migration_host in /etc/libvirt/qemu.conf on {there}"
    )
    if address.addresses is None:
        yield error(f"{here}: cannot resolve '{address.host}', the migration address of {there}", remedy)
    elif any(each.startswith("127.") or each == "::1" for each in address.addresses):
        yield error(f"{here}: '{address.host}' resolves to {here} itself instead of {there}", remedy)


def _ports(snapshot: Snapshot, address: AddressFacts) -> Iterator[Finding]:
    if address.outcome == REACHABLE:
        return
    facts = snapshot.destination.facts
    ports = f"{facts.migration.port_min}-{facts.migration.port_max}" if facts else "49152-49215"
    opened = f"firewall-cmd --permanent --add-port={quoted(ports)}/tcp; firewall-cmd --reload"
    remedy = f"run on {snapshot.destination.name}: {opened}"
    if address.outcome == FILTERED:
        yield error(
            f"{address.host}: a firewall blocks port {address.port} (libvirt's migration ports are {ports})",
            remedy,
        )
    else:
        yield warning(f"{address.host}: could not connect to port {address.port}: {address.outcome}", remedy)


def _rates(snapshot: Snapshot) -> str:
    uncounted = " (without DMA of its VF)" if snapshot.vfs else ""
    return f"the guest dirties {snapshot.dirty_mibs or 0.0:.0f} MiB/s{uncounted}; {_bandwidth(snapshot)}"


def _bandwidth(snapshot: Snapshot) -> str:
    most = snapshot.bandwidth_mibs
    if most is None or most >= UNLIMITED_MIBS:
        return "no bandwidth limit"
    return f"bandwidth limit {most} MiB/s"


def _dirty(snapshot: Snapshot) -> Iterator[Finding]:
    dirty, most = snapshot.dirty_mibs or 0.0, snapshot.bandwidth_mibs
    if most is not None and most < UNLIMITED_MIBS and dirty >= most:
        uncounted = " (without DMA of its VF)" if snapshot.vfs else ""
        yield warning(
            f"the guest dirties {dirty:.0f} MiB/s{uncounted}, more than the bandwidth limit of {most} MiB/s: the "
            "migration will not converge",
            f"raise the limit (virsh migrate-setspeed {quoted(snapshot.guest.domain.name)} MIB), use "
            "--auto-converge, or reduce the guest's load",
        )
